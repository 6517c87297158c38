--
-- PostgreSQL database dump
--



SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: store; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA store;


--
-- Name: accept_timeline(text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.accept_timeline(p_timeline text) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $_$
DECLARE v_now epochs;
BEGIN
    IF p_timeline !~ '^[0-9A-F]{8}$' THEN
        RAISE EXCEPTION 'a timeline has eight hexadecimal digits' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    v_now := this_database();
    v_now.accepted := p_timeline;
    v_now := begin_life(v_now, 0, false);
    RETURN v_now.start_revision;
END $_$;


--
-- Name: apply_batch(text, bigint, bigint, boolean, smallint[], integer[], text[], text[], uuid[], bigint[], bytea[], text[], text[], text[], text[]); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.apply_batch(p_incarnation text, p_batch bigint, p_floor bigint, p_notify boolean, p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[], p_expected bigint[], p_body bytea[], p_username text[], p_manager text[], p_verb text[], p_audit_id text[]) RETURNS TABLE(base bigint, "position" bigint, outcome smallint, revision bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_base bigint;
    v_count integer := cardinality(p_operation);
    v_done bigint;
    v_changed bigint;
    v_positions bigint[];
    v_outcomes smallint[];
    v_revisions bigint[];
BEGIN
    PERFORM begin_write(p_incarnation);
    SELECT last_value INTO v_base FROM revisions;
    WITH checked AS MATERIALIZED (
        SELECT i.*, o.place, o.revision AS current, v_base + i.ordinal AS fresh,
            CASE WHEN i.operation = 0 THEN CASE WHEN o.revision IS NULL THEN 0 ELSE 1 END
                WHEN o.revision IS NULL THEN 2
                WHEN o.revision = i.expected AND o.uid = i.uid THEN 0
                ELSE 3 END::smallint AS verdict,
            CASE WHEN i.operation <> 0 THEN coalesce(o.body, CASE WHEN o.revision < p_floor
                THEN (SELECT e.body FROM events e WHERE e.revision = o.revision) END)
                END AS previous_body
        FROM unnest(p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body,
                p_username, p_manager, p_verb, p_audit_id) WITH ORDINALITY
            AS i(operation, resource, namespace, name, uid, expected, body,
                username, manager, verb, audit_id, ordinal)
        LEFT JOIN LATERAL (
            SELECT h.ctid AS place, h.revision, h.uid, h.body FROM objects h
            WHERE h.resource = i.resource AND h.namespace = i.namespace AND h.name = i.name
            LIMIT 1) o ON true
    ), inserted AS (
        INSERT INTO objects (resource, namespace, name, uid, revision, created_revision)
        SELECT resource, namespace, name, uid, fresh, fresh FROM checked
        WHERE verdict = 0 AND operation = 0 RETURNING 1
    ), updated AS (
        UPDATE objects h SET revision = c.fresh, body = NULL FROM checked c
        WHERE c.verdict = 0 AND c.operation = 1 AND h.ctid = c.place RETURNING 1
    ), deleted AS (
        DELETE FROM objects h USING checked c
        WHERE c.verdict = 0 AND c.operation = 2 AND h.ctid = c.place RETURNING 1
    ), logged AS (
        INSERT INTO events (revision, batch, resource, kind, namespace, name, uid, previous_revision,
            recorded_at, username, manager, verb, audit_id, body, previous_body)
        SELECT fresh, p_batch, resource, operation, namespace, name, uid, current,
            clock_timestamp(), username, manager, verb, audit_id, body, previous_body
        FROM checked WHERE verdict = 0 ORDER BY ordinal RETURNING 1
    )
    SELECT array_agg(ordinal ORDER BY ordinal), array_agg(verdict ORDER BY ordinal),
        array_agg(CASE verdict WHEN 0 THEN fresh ELSE current END ORDER BY ordinal),
        count(*) FILTER (WHERE verdict = 0),
        (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
        INTO v_positions, v_outcomes, v_revisions, v_done, v_changed FROM checked;
    IF v_done <> v_changed THEN
        RAISE EXCEPTION 'a batch of % writes changed % objects', v_done, v_changed USING ERRCODE = 'KE002';
    END IF;
    IF v_done > 0 THEN
        PERFORM setval('revisions', v_base + v_count);
        IF p_notify THEN
            PERFORM pg_notify('store', (v_base + v_count) || ' ' || p_batch);
        END IF;
    END IF;
    RETURN QUERY SELECT v_base, u.* FROM unnest(v_positions, v_outcomes, v_revisions) u;
END $$;


--
-- Name: apply_one(text, bigint, bigint, boolean, smallint, integer, text, text, uuid, bigint, bytea, text, text, text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.apply_one(p_incarnation text, p_batch bigint, p_floor bigint, p_notify boolean, p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid, p_expected bigint, p_body bytea, p_username text, p_manager text, p_verb text, p_audit_id text, OUT base bigint, OUT outcome smallint, OUT revision bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_revision bigint;
    v_uid uuid;
    v_previous_body bytea;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes need read committed isolation' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    IF substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || '.' || ('store.objects'::regclass::oid)::text
        <> p_incarnation
    THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
    SELECT o.revision, o.uid, o.body INTO v_revision, v_uid, v_previous_body FROM objects o
        WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    outcome := CASE
        WHEN p_operation = 0 THEN CASE WHEN v_revision IS NULL THEN 0 ELSE 1 END
        WHEN v_revision IS NULL THEN 2
        WHEN v_revision = p_expected AND v_uid = p_uid THEN 0
        ELSE 3 END;
    IF outcome <> 0 THEN
        base := 0;
        revision := v_revision;
        RETURN;
    END IF;
    SELECT last_value INTO base FROM revisions;
    revision := base + 1;
    PERFORM setval('revisions', revision);
    -- v_previous_body is the head's own, if it was rescued; its event may then be gone.
    IF v_previous_body IS NULL AND v_revision < p_floor THEN
        SELECT e.body INTO v_previous_body FROM events e WHERE e.revision = v_revision;
    END IF;
    IF p_operation = 0 THEN
        INSERT INTO objects (resource, namespace, name, uid, revision, created_revision)
            VALUES (p_resource, p_namespace, p_name, p_uid, apply_one.revision, apply_one.revision);
    ELSIF p_operation = 1 THEN
        UPDATE objects o SET revision = apply_one.revision, body = NULL
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    ELSE
        DELETE FROM objects o
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    END IF;
    INSERT INTO events (revision, batch, resource, kind, namespace, name, uid, previous_revision,
            recorded_at, username, manager, verb, audit_id, body, previous_body)
        VALUES (apply_one.revision, p_batch, p_resource, p_operation, p_namespace, p_name, p_uid, v_revision,
            clock_timestamp(), p_username, p_manager, p_verb, p_audit_id, p_body, v_previous_body);
    IF p_notify THEN
        PERFORM pg_notify('store', revision || ' ' || p_batch);
    END IF;
END $$;


--
-- Name: barrier(text, bigint, bigint, boolean); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.barrier(p_life text, p_revision bigint, p_batch bigint, p_notify boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
BEGIN
    IF life() IS DISTINCT FROM p_life THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
    IF p_batch <> 0 AND NOT EXISTS (SELECT FROM events WHERE revision = p_revision AND batch = p_batch) THEN
        RAISE EXCEPTION 'what the barrier is for is gone' USING ERRCODE = 'KE003';
    END IF;
    PERFORM pg_logical_emit_message(true, 'store', '');
    IF p_notify THEN
        PERFORM pg_notify('store', p_revision || ' ' || p_batch);
    END IF;
END $$;


--
-- Name: begin_batch(text, bigint, boolean); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.begin_batch(p_life text, p_seen bigint, p_durable boolean) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE v_last bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes need read committed isolation' USING ERRCODE = '25001';
    END IF;
    IF NOT p_durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    SELECT last_value INTO v_last FROM revisions;
    IF life() <> p_life OR v_last < p_seen THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
    RETURN v_last;
END $$;




--
-- Name: epochs; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.epochs (
    epoch integer NOT NULL,
    system_id bigint NOT NULL,
    timeline text NOT NULL,
    database_oid oid NOT NULL,
    objects_oid oid NOT NULL,
    previous_end bigint NOT NULL,
    start_revision bigint NOT NULL,
    opened_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    mark bigint DEFAULT ((random() * ('9007199254740992'::bigint)::double precision))::bigint NOT NULL,
    accepted text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C"
);


--
-- Name: begin_life(store.epochs, bigint, boolean); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.begin_life(p_now store.epochs, p_seen bigint, p_is_first boolean) RETURNS store.epochs
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
BEGIN
    p_now.previous_end := greatest((SELECT last_value FROM revisions), (SELECT max(revision) FROM events),
        (SELECT revision FROM compaction), p_seen);
    p_now.epoch := coalesce((SELECT max(epoch) FROM epochs), 0) + 1;
    p_now.start_revision := p_now.previous_end;
    IF NOT p_is_first THEN
        p_now.start_revision := greatest(p_now.previous_end + 4294967296,
            (extract(epoch FROM clock_timestamp()) * 2097152)::bigint);
        PERFORM setval('revisions', p_now.start_revision);
        UPDATE compaction SET revision = p_now.start_revision;
        PERFORM extend_events(1000000, 1);
        PERFORM pg_notify('store', p_now.start_revision || ' 0');
    END IF;
    INSERT INTO epochs (epoch, system_id, timeline, database_oid, objects_oid, previous_end, start_revision, accepted)
        VALUES (p_now.epoch, p_now.system_id, p_now.timeline, p_now.database_oid, p_now.objects_oid,
            p_now.previous_end, p_now.start_revision, coalesce(p_now.accepted, ''));
    RETURN p_now;
END $$;


--
-- Name: begin_write(text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.begin_write(p_incarnation text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes need read committed isolation' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    IF incarnation() <> p_incarnation THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
END $$;


--
-- Name: drop_events(bigint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.drop_events(p_below bigint) RETURNS smallint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $$
DECLARE
    v_name text;
    v_below bigint;
BEGIN
    SELECT name, below_revision INTO v_name, v_below FROM event_partitions()
        ORDER BY from_revision LIMIT 1;
    IF v_below IS NULL OR v_below > least(p_below, (SELECT revision FROM compaction)) THEN
        RETURN 0;
    END IF;
    IF EXISTS (SELECT FROM objects WHERE body IS NULL AND revision < v_below) THEN
        RETURN 2;
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    EXECUTE format('DROP TABLE %I', v_name);
    UPDATE compaction SET dropped = greatest(dropped, v_below);
    RETURN 1;
END $$;


--
-- Name: drop_oldest_events(bigint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.drop_oldest_events(p_below bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    SET lock_timeout TO '200ms'
    AS $$
DECLARE
    v_name text;
    v_below bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7777, 1);
    SELECT name, below_revision INTO v_name, v_below FROM event_partitions()
        ORDER BY from_revision LIMIT 1;
    IF v_below IS NULL OR v_below > least(p_below, (SELECT revision FROM compaction)) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM objects WHERE body IS NULL AND revision < v_below) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE %I', v_name);
    RETURN true;
END $$;


--
-- Name: event_partitions(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.event_partitions(OUT name text, OUT from_revision bigint, OUT below_revision bigint) RETURNS SETOF record
    LANGUAGE sql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
    SELECT c.relname, split_part(c.relname, '_', 2)::bigint, split_part(c.relname, '_', 3)::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'store.events'::regclass
    ORDER BY 2
$$;


--
-- Name: extend_events(bigint, integer); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.extend_events(p_size bigint, p_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_last bigint;
    v_from bigint;
    v_name text;
    v_made integer := 0;
BEGIN
    IF p_size < 1 OR p_ahead < 1 THEN
        RAISE EXCEPTION 'partition size and count must be positive' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 3);
    SELECT last_value INTO v_last FROM revisions;
    SELECT greatest(coalesce(max(below_revision), 0), v_last) INTO v_from FROM event_partitions();
    WHILE v_from < v_last + p_size * p_ahead LOOP
        v_name := format('events_%s_%s', v_from, v_from + p_size);
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING ALL) WITH (toast_tuple_target = 8160)', v_name);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            v_name, v_from, v_from + p_size);
        v_from := v_from + p_size;
        v_made := v_made + 1;
    END LOOP;
    RETURN v_made;
END $$;


--
-- Name: objects; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.objects (
    resource integer NOT NULL,
    namespace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    uid uuid NOT NULL,
    revision bigint NOT NULL,
    created_revision bigint NOT NULL,
    body bytea,
    sum bigint
)
WITH (fillfactor='80', toast_tuple_target='8160');
ALTER TABLE ONLY store.objects ALTER COLUMN body SET STORAGE EXTERNAL;


--
-- Name: incarnation(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.incarnation() RETURNS text
    LANGUAGE sql
    SET search_path TO 'store', 'pg_temp'
    RETURN ((substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || '.'::text) || (('store.objects'::regclass)::oid)::text);


--
-- Name: life(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.life() RETURNS text
    LANGUAGE plpgsql
    AS $$
BEGIN
    RETURN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
        || '.' || ('store.objects'::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.text
        || '.' || (SELECT e.mark FROM store.epochs e ORDER BY e.epoch DESC LIMIT 1)::pg_catalog.text;
END $$;


--
-- Name: open_epoch(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.open_epoch(OUT epoch integer, OUT incarnation text, OUT start_revision bigint, OUT database text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_known epochs;
    v_now epochs;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the database is a standby' USING ERRCODE = '25006';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    incarnation := incarnation();
    v_now.system_id := (SELECT system_identifier FROM pg_control_system());
    v_now.timeline := split_part(incarnation, '.', 1);
    v_now.objects_oid := split_part(incarnation, '.', 2)::oid;
    v_now.database_oid := (SELECT oid FROM pg_database WHERE datname = current_database());
    SELECT e.* INTO v_known FROM epochs e ORDER BY e.epoch DESC LIMIT 1;
    IF FOUND AND v_known.system_id = v_now.system_id AND v_known.timeline = v_now.timeline
        AND v_known.database_oid = v_now.database_oid AND v_known.objects_oid = v_now.objects_oid
    THEN
        epoch := v_known.epoch;
        start_revision := v_known.start_revision;
    ELSE
        SELECT greatest(last_value, (SELECT max(revision) FROM events), (SELECT revision FROM compaction))
            INTO v_now.previous_end FROM revisions;
        epoch := coalesce(v_known.epoch, 0) + 1;
        start_revision := v_now.previous_end;
        IF v_known.epoch IS NOT NULL THEN
            start_revision := start_revision + 4294967296;
            PERFORM setval('revisions', start_revision);
            UPDATE compaction SET revision = open_epoch.start_revision;
            PERFORM extend_events(1000000, 1);
            PERFORM pg_notify('store', start_revision || ' 0');
        END IF;
        INSERT INTO epochs (epoch, system_id, timeline, database_oid, objects_oid, previous_end, start_revision)
            VALUES (open_epoch.epoch, v_now.system_id, v_now.timeline, v_now.database_oid,
                v_now.objects_oid, v_now.previous_end, open_epoch.start_revision);
    END IF;
    database := v_now.system_id || '.' || v_now.database_oid || '.' || incarnation;
END $$;


--
-- Name: open_life(bigint, bigint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.open_life(p_seen bigint, p_batch bigint, OUT epoch integer, OUT life text, OUT start_revision bigint, OUT database text) RETURNS record
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
    SELECT * FROM open_life(p_seen, p_batch, '')
$$;


--
-- Name: open_life(bigint, bigint, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.open_life(p_seen bigint, p_batch bigint, p_followed text, OUT epoch integer, OUT life text, OUT start_revision bigint, OUT database text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_known epochs;
    v_now epochs;
    v_lost boolean;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the database is a standby' USING ERRCODE = '25006';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    v_now := this_database();
    IF split_part(p_followed, '.', 1) = v_now.system_id::text
        AND split_part(p_followed, '.', 2) = v_now.database_oid::text
        AND split_part(p_followed, '.', 3) COLLATE "C" > greatest(v_now.timeline, (
            SELECT max(e.accepted) FROM epochs e
            WHERE e.system_id = v_now.system_id AND e.timeline = v_now.timeline))
    THEN
        RAISE EXCEPTION 'the database has gone on at timeline %, this is a primary of timeline %',
            split_part(p_followed, '.', 3), v_now.timeline USING ERRCODE = 'KE004';
    END IF;
    v_lost := (SELECT last_value FROM revisions) < p_seen
        OR p_batch <> 0 AND p_seen > (SELECT revision FROM compaction)
        AND NOT EXISTS (SELECT FROM events WHERE revision = p_seen AND batch = p_batch);
    SELECT e.* INTO v_known FROM epochs e ORDER BY e.epoch DESC LIMIT 1;
    IF v_lost OR v_known.epoch IS NULL OR v_known.system_id <> v_now.system_id
        OR v_known.timeline <> v_now.timeline OR v_known.database_oid <> v_now.database_oid
        OR v_known.objects_oid <> v_now.objects_oid
    THEN
        v_known := begin_life(v_now, p_seen, v_known.epoch IS NULL AND NOT v_lost);
    END IF;
    epoch := v_known.epoch;
    start_revision := v_known.start_revision;
    life := life();
    database := v_now.system_id || '.' || v_now.database_oid || '.' || life;
END $$;


--
-- Name: register_resource(text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.register_resource(p_group text, p_plural text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE v_id integer;
BEGIN
    SELECT id INTO v_id FROM resources WHERE group_name = p_group AND plural = p_plural;
    IF NOT FOUND THEN
        INSERT INTO resources (group_name, plural) VALUES (p_group, p_plural)
            ON CONFLICT (group_name, plural) DO UPDATE SET plural = excluded.plural
            RETURNING id INTO v_id;
    END IF;
    RETURN v_id;
END $$;


--
-- Name: rescue_bodies(integer[], text[], text[], bigint[]); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.rescue_bodies(p_resource integer[], p_namespace text[], p_name text[], p_revision bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE v_count bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7777, 1);
    UPDATE objects o SET body = e.body, sum = e.sum
        FROM unnest(p_resource, p_namespace, p_name, p_revision) i(resource, namespace, name, revision)
        JOIN events e ON e.revision = i.revision
        WHERE o.resource = i.resource AND o.namespace = i.namespace AND o.name = i.name
            AND o.revision = i.revision AND o.body IS NULL;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;


--
-- Name: resolve_batch(text, bigint, bigint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.resolve_batch(p_incarnation text, p_batch bigint, p_after bigint) RETURNS TABLE(resource integer, namespace text, name text, revision bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    PERFORM begin_write(p_incarnation);
    PERFORM pg_logical_emit_message(true, 'store', '');
    RETURN QUERY SELECT e.resource, e.namespace, e.name, e.revision FROM events e
        WHERE e.revision > p_after AND e.batch = p_batch;
END $$;


--
-- Name: resolve_batches(text, bigint, bigint[], bigint, boolean); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.resolve_batches(p_life text, p_seen bigint, p_batches bigint[], p_after bigint, p_notify boolean) RETURNS TABLE(batch bigint, resource integer, namespace text, name text, revision bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE v_newest bigint;
BEGIN
    PERFORM begin_batch(p_life, p_seen, true);
    PERFORM pg_logical_emit_message(true, 'store', '');
    IF p_notify THEN
        SELECT max(revision) INTO v_newest FROM events;
        PERFORM pg_notify('store', v_newest || ' 1');
    END IF;
    RETURN QUERY SELECT e.batch, e.resource, e.namespace, e.name, e.revision FROM events e
        WHERE e.revision > p_after AND e.batch = ANY (p_batches);
END $$;


--
-- Name: revision_before(interval); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.revision_before(p_age interval) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_until timestamptz := clock_timestamp() - p_age;
    v_low bigint;   -- old enough, or before all
    v_high bigint;  -- too new, or after all
    v_middle bigint;
    v_revision bigint;
    v_at timestamptz;
BEGIN
    SELECT min(revision) - 1, max(revision) + 1 INTO v_low, v_high FROM events;
    IF v_low IS NULL THEN
        RETURN 0;
    END IF;
    WHILE v_high - v_low > 1 LOOP
        v_middle := v_low + (v_high - v_low) / 2;
        SELECT e.revision, e.recorded_at INTO v_revision, v_at FROM events e
            WHERE e.revision >= v_middle AND e.revision < v_high ORDER BY e.revision LIMIT 1;
        IF NOT FOUND OR v_at > v_until THEN
            v_high := v_middle;
        ELSE
            v_low := v_revision;
        END IF;
    END LOOP;
    RETURN greatest(v_low, 0);
END $$;


--
-- Name: set_compacted(bigint); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.set_compacted(p_revision bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE v_revision bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7777, 1);
    UPDATE compaction SET revision = least(greatest(revision, p_revision), (SELECT last_value FROM revisions))
        RETURNING revision INTO v_revision;
    RETURN v_revision;
END $$;


--
-- Name: this_database(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.this_database() RETURNS store.epochs
    LANGUAGE plpgsql
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE v_now epochs;
BEGIN
    v_now.system_id := (SELECT system_identifier FROM pg_control_system());
    v_now.timeline := split_part(incarnation(), '.', 1);
    v_now.objects_oid := split_part(incarnation(), '.', 2)::oid;
    v_now.database_oid := (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN v_now;
END $$;


--
-- Name: time_to_record(); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.time_to_record() RETURNS timestamp with time zone
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_second bigint := pg_catalog.floor(pg_catalog.date_part('epoch', v_now));
    v_latest bigint := (SELECT c.last_value FROM store.clock c);
BEGIN
    IF v_second < v_latest AND v_latest <= v_second + 7200 THEN
        RETURN pg_catalog.to_timestamp(v_latest);
    END IF;
    IF v_second <> v_latest THEN
        PERFORM pg_catalog.setval('store.clock', v_second);
    END IF;
    RETURN v_now;
END $$;


--
-- Name: write_batch(text, bigint, bigint, bigint, boolean, boolean, smallint[], integer[], text[], text[], uuid[], bigint[], bytea[], text[], text[], text[], text[]); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.write_batch(p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean, p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[], p_expected bigint[], p_body bytea[], p_username text[], p_manager text[], p_verb text[], p_audit_id text[]) RETURNS TABLE(base bigint, "position" bigint, outcome smallint, revision bigint)
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
    SELECT * FROM write_batch(p_life, p_seen, p_batch, p_floor, p_durable, p_notify,
        p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body, NULL::bigint[],
        p_username, p_manager, p_verb, p_audit_id)
$$;


--
-- Name: write_batch(text, bigint, bigint, bigint, boolean, boolean, smallint[], integer[], text[], text[], uuid[], bigint[], bytea[], bigint[], text[], text[], text[], text[]); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.write_batch(p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean, p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[], p_expected bigint[], p_body bytea[], p_sum bigint[], p_username text[], p_manager text[], p_verb text[], p_audit_id text[]) RETURNS TABLE(base bigint, "position" bigint, outcome smallint, revision bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_base bigint;
    v_at timestamptz;
    v_done bigint;
    v_changed bigint;
    v_newest bigint;
    v_positions bigint[];
    v_outcomes smallint[];
    v_revisions bigint[];
BEGIN
    v_base := begin_batch(p_life, p_seen, p_durable);
    v_at := time_to_record();
    WITH checked AS MATERIALIZED (
        SELECT i.*, o.place, o.revision AS current, v_base + i.ordinal AS fresh,
            CASE WHEN i.operation = 0 THEN CASE WHEN o.revision IS NULL THEN 0 ELSE 1 END
                WHEN o.revision IS NULL THEN 2
                WHEN o.revision = i.expected AND o.uid = i.uid THEN 0
                ELSE 3 END::smallint AS verdict,
            coalesce(o.body, p.body) AS previous_body,
            CASE WHEN o.body IS NULL THEN p.sum ELSE o.sum END AS previous_sum
        FROM unnest(p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body, p_sum,
                p_username, p_manager, p_verb, p_audit_id) WITH ORDINALITY
            AS i(operation, resource, namespace, name, uid, expected, body, sum,
                username, manager, verb, audit_id, ordinal)
        LEFT JOIN LATERAL (
            SELECT h.ctid AS place, h.revision, h.uid, h.body, h.sum FROM objects h
            WHERE h.resource = i.resource AND h.namespace = i.namespace AND h.name = i.name
            LIMIT 1) o ON true
        LEFT JOIN LATERAL (
            SELECT e.body, e.sum FROM events e
            WHERE e.revision = o.revision AND o.body IS NULL AND o.revision < p_floor
            LIMIT 1) p ON true
    ), inserted AS (
        INSERT INTO objects (resource, namespace, name, uid, revision, created_revision)
        SELECT resource, namespace, name, uid, fresh, fresh FROM checked
        WHERE verdict = 0 AND operation = 0 RETURNING 1
    ), updated AS (
        UPDATE objects h SET revision = c.fresh, body = NULL, sum = NULL FROM checked c
        WHERE c.verdict = 0 AND c.operation = 1 AND h.ctid = c.place RETURNING 1
    ), deleted AS (
        DELETE FROM objects h USING checked c
        WHERE c.verdict = 0 AND c.operation = 2 AND h.ctid = c.place RETURNING 1
    ), logged AS (
        INSERT INTO events (revision, batch, resource, kind, namespace, name, uid, previous_revision,
            recorded_at, username, manager, verb, audit_id, body, sum, previous_body, previous_sum)
        SELECT fresh, p_batch, resource, operation, namespace, name, uid, current,
            v_at, username, manager, verb, audit_id, body, sum, previous_body, previous_sum
        FROM checked WHERE verdict = 0 ORDER BY ordinal RETURNING 1
    )
    SELECT array_agg(ordinal ORDER BY ordinal), array_agg(verdict ORDER BY ordinal),
        array_agg(CASE verdict WHEN 0 THEN fresh ELSE current END ORDER BY ordinal),
        count(*) FILTER (WHERE verdict = 0), max(fresh) FILTER (WHERE verdict = 0),
        (SELECT count(*) FROM inserted) + (SELECT count(*) FROM updated) + (SELECT count(*) FROM deleted)
        INTO v_positions, v_outcomes, v_revisions, v_done, v_newest, v_changed FROM checked;
    IF v_done <> v_changed THEN
        RAISE EXCEPTION 'a batch of % writes changed % objects', v_done, v_changed USING ERRCODE = 'KE002';
    END IF;
    IF v_done > 0 THEN
        PERFORM setval('revisions', v_base + cardinality(p_operation));
        IF p_notify THEN
            PERFORM pg_notify('store', v_newest || ' ' || p_batch);
        END IF;
    END IF;
    RETURN QUERY SELECT v_base, u.* FROM unnest(v_positions, v_outcomes, v_revisions) u;
END $$;


--
-- Name: write_one(text, bigint, bigint, bigint, boolean, boolean, smallint, integer, text, text, uuid, bigint, bytea, text, text, text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.write_one(p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean, p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid, p_expected bigint, p_body bytea, p_username text, p_manager text, p_verb text, p_audit_id text, OUT base bigint, OUT outcome smallint, OUT revision bigint) RETURNS record
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
    SELECT * FROM write_one(p_life, p_seen, p_batch, p_floor, p_durable, p_notify,
        p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body, NULL::bigint,
        p_username, p_manager, p_verb, p_audit_id)
$$;


--
-- Name: write_one(text, bigint, bigint, bigint, boolean, boolean, smallint, integer, text, text, uuid, bigint, bytea, bigint, text, text, text, text); Type: FUNCTION; Schema: store; Owner: -
--

CREATE FUNCTION store.write_one(p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean, p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid, p_expected bigint, p_body bytea, p_sum bigint, p_username text, p_manager text, p_verb text, p_audit_id text, OUT base bigint, OUT outcome smallint, OUT revision bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'store', 'pg_temp'
    AS $$
DECLARE
    v_last bigint;
    v_life text;
    v_revision bigint;
    v_uid uuid;
    v_previous_body bytea;
    v_previous_sum bigint;
BEGIN
    -- Spelled out what begin_batch does: a call costs as much as the write.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes need read committed isolation' USING ERRCODE = '25001';
    END IF;
    IF NOT p_durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    SELECT r.last_value, substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
            || '.' || ('store.objects'::regclass::oid)::text || '.' || e.mark
        INTO v_last, v_life
        FROM revisions r, (SELECT mark FROM epochs ORDER BY epoch DESC LIMIT 1) e;
    IF v_life IS DISTINCT FROM p_life OR v_last < p_seen THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
    SELECT o.revision, o.uid, o.body, o.sum INTO v_revision, v_uid, v_previous_body, v_previous_sum
        FROM objects o
        WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    outcome := CASE
        WHEN p_operation = 0 THEN CASE WHEN v_revision IS NULL THEN 0 ELSE 1 END
        WHEN v_revision IS NULL THEN 2
        WHEN v_revision = p_expected AND v_uid = p_uid THEN 0
        ELSE 3 END;
    IF outcome <> 0 THEN
        base := 0;
        revision := v_revision;
        RETURN;
    END IF;
    base := v_last;
    revision := v_last + 1;
    PERFORM setval('revisions', revision);
    -- v_previous_body is the head's own, if it was rescued; its event may then be gone.
    IF p_floor < 0 THEN
        v_previous_body := NULL;
    ELSIF v_previous_body IS NULL AND v_revision < p_floor THEN
        SELECT e.body, e.sum INTO v_previous_body, v_previous_sum FROM events e WHERE e.revision = v_revision;
    END IF;
    IF p_operation = 0 THEN
        INSERT INTO objects (resource, namespace, name, uid, revision, created_revision)
            VALUES (p_resource, p_namespace, p_name, p_uid, write_one.revision, write_one.revision);
    ELSIF p_operation = 1 THEN
        UPDATE objects o SET revision = write_one.revision, body = NULL, sum = NULL
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    ELSE
        DELETE FROM objects o
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    END IF;
    INSERT INTO events (revision, batch, resource, kind, namespace, name, uid, previous_revision,
            recorded_at, username, manager, verb, audit_id, body, sum, previous_body, previous_sum)
        VALUES (write_one.revision, p_batch, p_resource, p_operation, p_namespace, p_name, p_uid, v_revision,
            time_to_record(), p_username, p_manager, p_verb, p_audit_id, p_body, p_sum,
            v_previous_body, v_previous_sum);
    IF p_notify THEN
        PERFORM pg_notify('store', revision || ' ' || p_batch);
    END IF;
END $$;


--
-- Name: clock; Type: SEQUENCE; Schema: store; Owner: -
--

CREATE SEQUENCE store.clock
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: compaction; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.compaction (
    only_row boolean DEFAULT true NOT NULL,
    revision bigint NOT NULL,
    dropped bigint DEFAULT 0 NOT NULL,
    CONSTRAINT compaction_only_row_check CHECK (only_row)
);


--
-- Name: compatibility; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.compatibility (
    version bigint NOT NULL,
    oldest_program bigint NOT NULL
);


--
-- Name: events; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.events (
    revision bigint NOT NULL,
    batch bigint NOT NULL,
    resource integer NOT NULL,
    kind smallint NOT NULL,
    namespace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    uid uuid NOT NULL,
    previous_revision bigint,
    recorded_at timestamp with time zone NOT NULL,
    username text,
    manager text,
    verb text,
    audit_id text,
    body bytea NOT NULL,
    previous_body bytea,
    sum bigint,
    previous_sum bigint
)
PARTITION BY RANGE (revision);
ALTER TABLE ONLY store.events ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE ONLY store.events ALTER COLUMN previous_body SET STORAGE EXTERNAL;


--
-- Name: migrations; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);


--
-- Name: resources; Type: TABLE; Schema: store; Owner: -
--

CREATE TABLE store.resources (
    id integer NOT NULL,
    group_name text NOT NULL COLLATE pg_catalog."C",
    plural text NOT NULL COLLATE pg_catalog."C"
);


--
-- Name: resources_id_seq; Type: SEQUENCE; Schema: store; Owner: -
--

ALTER TABLE store.resources ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME store.resources_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: revisions; Type: SEQUENCE; Schema: store; Owner: -
--

CREATE SEQUENCE store.revisions
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: compaction compaction_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.compaction
    ADD CONSTRAINT compaction_pkey PRIMARY KEY (only_row);


--
-- Name: compatibility compatibility_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.compatibility
    ADD CONSTRAINT compatibility_pkey PRIMARY KEY (version);


--
-- Name: epochs epochs_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.epochs
    ADD CONSTRAINT epochs_pkey PRIMARY KEY (epoch);


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (revision);


--
-- Name: migrations migrations_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (version);


--
-- Name: objects objects_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.objects
    ADD CONSTRAINT objects_pkey PRIMARY KEY (resource, namespace, name);


--
-- Name: resources resources_group_name_plural_key; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.resources
    ADD CONSTRAINT resources_group_name_plural_key UNIQUE (group_name, plural);


--
-- Name: resources resources_pkey; Type: CONSTRAINT; Schema: store; Owner: -
--

ALTER TABLE ONLY store.resources
    ADD CONSTRAINT resources_pkey PRIMARY KEY (id);


--
-- Name: events_deletions; Type: INDEX; Schema: store; Owner: -
--

CREATE INDEX events_deletions ON ONLY store.events USING btree (resource, namespace, name, revision) WHERE (kind = 2);


--
-- PostgreSQL database dump complete
--
