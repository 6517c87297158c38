-- Objects at revisions, and the log of every write.
--
-- All writes go through the SECURITY DEFINER functions below, which the migrating role owns; the
-- runtime role may SELECT and EXECUTE only. Every function that allots revisions or changes
-- objects or events holds advisory lock (7777, 1) until its transaction is visible, so the order
-- of revisions is the order of visibility. (7777, 2) is the compactor's, (7777, 3) guards the
-- making of partitions, and every process that follows the log shares (7777, 4): the others need
-- a notification only if there are any.

-- The last revision allotted. Advanced by setval() under the lock and never transactional: an
-- aborted batch leaves a gap, never a revision that is used twice.
CREATE SEQUENCE store.revisions AS bigint;

-- What each schema version demands of programs: the oldest schema version whose programs still
-- work with it.
CREATE TABLE store.compatibility (
    version bigint PRIMARY KEY,
    oldest_program bigint NOT NULL
);
INSERT INTO store.compatibility VALUES (1, 1);

CREATE TABLE store.resources (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_name text COLLATE "C" NOT NULL,
    plural text COLLATE "C" NOT NULL,
    UNIQUE (group_name, plural)
);

-- The current version of each object. Its body is that of events[revision]; compaction copies it
-- here before that event goes.
CREATE TABLE store.objects (
    resource integer NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    uid uuid NOT NULL,
    revision bigint NOT NULL,
    created_revision bigint NOT NULL,
    body bytea,
    PRIMARY KEY (resource, namespace, name)
) WITH (fillfactor = 80, toast_tuple_target = 8160);
ALTER TABLE store.objects ALTER COLUMN body SET STORAGE EXTERNAL;

-- Every write. Bodies are bytes: jsonb refuses what Kubernetes accepts, and reorders keys.
CREATE TABLE store.events (
    revision bigint NOT NULL,
    batch bigint NOT NULL,
    resource integer NOT NULL,
    kind smallint NOT NULL,          -- 0 added, 1 modified, 2 deleted
    namespace text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    uid uuid NOT NULL,
    previous_revision bigint,        -- NULL exactly for added
    recorded_at timestamptz NOT NULL,
    username text,
    manager text,
    verb text,
    audit_id text,
    body bytea NOT NULL,             -- after the write; for deleted the last state
    previous_body bytea,             -- only where the event before may be compacted first
    PRIMARY KEY (revision)
) PARTITION BY RANGE (revision);
ALTER TABLE store.events ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE store.events ALTER COLUMN previous_body SET STORAGE EXTERNAL;

-- Nothing below this revision is promised any more.
CREATE TABLE store.compaction (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL
);
INSERT INTO store.compaction (revision) VALUES (0);

-- The database's lives. A restore or a failover may have lost the newest writes, whose revisions
-- clients have seen: a new life starts far above all of them.
CREATE TABLE store.epochs (
    epoch integer PRIMARY KEY,
    system_id bigint NOT NULL,
    timeline text NOT NULL,
    database_oid oid NOT NULL,
    objects_oid oid NOT NULL,
    previous_end bigint NOT NULL,
    start_revision bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What tells this life from another within one server and one database; programs hand it back
-- with every write.
CREATE FUNCTION store.incarnation() RETURNS text
LANGUAGE sql VOLATILE SET search_path = store, pg_temp
RETURN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
    || '.' || ('store.objects'::regclass::oid)::text;

CREATE FUNCTION store.register_resource(p_group text, p_plural text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- The partitions of events; their names carry their bounds: events_<from>_<below>.
CREATE FUNCTION store.event_partitions(OUT name text, OUT from_revision bigint, OUT below_revision bigint)
RETURNS SETOF record LANGUAGE sql STABLE SET search_path = store, pg_temp AS $$
    SELECT c.relname, split_part(c.relname, '_', 2)::bigint, split_part(c.relname, '_', 3)::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'store.events'::regclass
    ORDER BY 2
$$;

-- Makes partitions until p_ahead of them lie ahead of the last revision. Made apart and then
-- attached, which neither waits for readers nor holds up writers.
CREATE FUNCTION store.extend_events(p_size bigint, p_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- The epoch of the database as it is now; begins a new one after a restore or a failover.
CREATE FUNCTION store.open_epoch(
    OUT epoch integer, OUT incarnation text, OUT start_revision bigint, OUT database text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- Refuses to write under a snapshot from before the lock, or in a life that the caller does not
-- know of.
CREATE FUNCTION store.begin_write(p_incarnation text) RETURNS void
LANGUAGE plpgsql SET search_path = store, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes need read committed isolation' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    IF incarnation() <> p_incarnation THEN
        RAISE EXCEPTION 'the database was restored or failed over' USING ERRCODE = 'KE001';
    END IF;
END $$;

-- One write. Outcome: 0 done, 1 exists, 2 missing, 3 conflict; revision is the new one, or that
-- of what is there. The lock is its own statement: what follows sees all that was committed
-- before it was granted.
CREATE FUNCTION store.apply_one(
    p_incarnation text, p_batch bigint, p_floor bigint, p_notify boolean,
    p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid,
    p_expected bigint, p_body bytea,
    p_username text, p_manager text, p_verb text, p_audit_id text,
    OUT base bigint, OUT outcome smallint, OUT revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- Many writes to different keys, as if by apply_one in turn; position is that in the arrays, from 1.
-- The lateral subquery with LIMIT 1 and the join by ctid pin the plan to one index probe a write,
-- also when the plan was cached while the table was empty.
CREATE FUNCTION store.apply_batch(
    p_incarnation text, p_batch bigint, p_floor bigint, p_notify boolean,
    p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[],
    p_expected bigint[], p_body bytea[],
    p_username text[], p_manager text[], p_verb text[], p_audit_id text[])
RETURNS TABLE (base bigint, "position" bigint, outcome smallint, revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- What became of a batch whose connection broke: its events, once the lock shows that it is over.
-- The message makes this commit wait for all that was committed before it.
CREATE FUNCTION store.resolve_batch(p_incarnation text, p_batch bigint, p_after bigint)
RETURNS TABLE (resource integer, namespace text, name text, revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM begin_write(p_incarnation);
    PERFORM pg_logical_emit_message(true, 'store', '');
    RETURN QUERY SELECT e.resource, e.namespace, e.name, e.revision FROM events e
        WHERE e.revision > p_after AND e.batch = p_batch;
END $$;

-- The newest revision that is at least p_age old, or 0. Found by bisection: time rises with
-- revision, and no index is kept for it.
CREATE FUNCTION store.revision_before(p_age interval) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = store, pg_temp AS $$
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

CREATE FUNCTION store.set_compacted(p_revision bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
DECLARE v_revision bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7777, 1);
    UPDATE compaction SET revision = least(greatest(revision, p_revision), (SELECT last_value FROM revisions))
        RETURNING revision INTO v_revision;
    RETURN v_revision;
END $$;

-- Copies the bodies of these heads out of the log, under the lock: a write in between would move
-- the row. Heads that have moved on are left alone.
CREATE FUNCTION store.rescue_bodies(p_resource integer[], p_namespace text[], p_name text[], p_revision bigint[])
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
DECLARE v_count bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7777, 1);
    UPDATE objects o SET body = e.body
        FROM unnest(p_resource, p_namespace, p_name, p_revision) i(resource, namespace, name, revision)
        JOIN events e ON e.revision = i.revision
        WHERE o.resource = i.resource AND o.namespace = i.namespace AND o.name = i.name
            AND o.revision = i.revision AND o.body IS NULL;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

-- Drops the oldest partition of events if all of it is below p_below and no head needs it.
-- Returns whether it did.
CREATE FUNCTION store.drop_oldest_events(p_below bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp SET lock_timeout = '200ms' AS $$
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA store FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA store FROM PUBLIC;
