-- Batches may commit before they are durable: a barrier, one tiny synchronous commit on another
-- connection, then proves all batches before it, and only then are they acknowledged, notified
-- and shown. The functions of 0001 stay for programs of that version, which do all in one commit.
--
-- Every process of this version that follows the log also shares lock (7777, 5): while fewer hold
-- it than (7777, 4), a process of the older version follows too, which shows whatever it reads.

INSERT INTO store.compatibility VALUES (3, 1);

-- A storage snapshot that is put back has the system id and the timeline of what it replaces.
-- Whoever finds out begins a new life, which this tells from the old one.
ALTER TABLE store.epochs ADD COLUMN mark bigint NOT NULL DEFAULT (random() * 9007199254740992)::bigint;

-- What tells this life from another within one server and one database; programs hand it back
-- with every write. Without a setting of its own, and in a language that keeps its plans: else
-- each call would cost as much as a write.
CREATE FUNCTION store.life() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)
        || '.' || ('store.objects'::pg_catalog.regclass::pg_catalog.oid)::pg_catalog.text
        || '.' || (SELECT e.mark FROM store.epochs e ORDER BY e.epoch DESC LIMIT 1)::pg_catalog.text;
END $$;

-- The epoch of the database as it is now; begins a new one after a restore or a failover. The
-- caller has been shown the event at p_seen, which batch p_batch wrote (0 if it knows of none): a
-- log that does not have it has lost it.
CREATE FUNCTION store.open_life(p_seen bigint, p_batch bigint,
    OUT epoch integer, OUT life text, OUT start_revision bigint, OUT database text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
DECLARE
    v_known epochs;
    v_now epochs;
    v_last bigint;
    v_lost boolean;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'the database is a standby' USING ERRCODE = '25006';
    END IF;
    PERFORM pg_advisory_xact_lock(7777, 1);
    SELECT last_value INTO v_last FROM revisions;
    v_lost := v_last < p_seen OR p_batch <> 0 AND p_seen > (SELECT revision FROM compaction)
        AND NOT EXISTS (SELECT FROM events WHERE revision = p_seen AND batch = p_batch);
    v_now.system_id := (SELECT system_identifier FROM pg_control_system());
    v_now.timeline := split_part(incarnation(), '.', 1);
    v_now.objects_oid := split_part(incarnation(), '.', 2)::oid;
    v_now.database_oid := (SELECT oid FROM pg_database WHERE datname = current_database());
    SELECT e.* INTO v_known FROM epochs e ORDER BY e.epoch DESC LIMIT 1;
    IF FOUND AND v_known.system_id = v_now.system_id AND v_known.timeline = v_now.timeline
        AND v_known.database_oid = v_now.database_oid AND v_known.objects_oid = v_now.objects_oid
        AND NOT v_lost
    THEN
        epoch := v_known.epoch;
        start_revision := v_known.start_revision;
    ELSE
        v_now.previous_end := greatest(v_last, (SELECT max(revision) FROM events),
            (SELECT revision FROM compaction), p_seen);
        epoch := coalesce(v_known.epoch, 0) + 1;
        start_revision := v_now.previous_end;
        IF v_known.epoch IS NOT NULL OR v_lost THEN
            start_revision := start_revision + 4294967296;
            PERFORM setval('revisions', start_revision);
            UPDATE compaction SET revision = open_life.start_revision;
            PERFORM extend_events(1000000, 1);
            PERFORM pg_notify('store', start_revision || ' 0');
        END IF;
        INSERT INTO epochs (epoch, system_id, timeline, database_oid, objects_oid, previous_end, start_revision)
            VALUES (open_life.epoch, v_now.system_id, v_now.timeline, v_now.database_oid,
                v_now.objects_oid, v_now.previous_end, open_life.start_revision);
    END IF;
    life := life();
    database := v_now.system_id || '.' || v_now.database_oid || '.' || life;
END $$;

-- Takes the lock and returns the last revision. Refuses to write under a snapshot from before the
-- lock, in a life that the caller does not know of, or in one that lacks what the caller has seen.
CREATE FUNCTION store.begin_batch(p_life text, p_seen bigint, p_durable boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = store, pg_temp AS $$
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

-- One write. Outcome: 0 done, 1 exists, 2 missing, 3 conflict; revision is the new one, or that
-- of what is there. The lock is its own statement: what follows sees all that was committed
-- before it was granted. Unless p_durable, nothing of it may be told before a barrier.
CREATE FUNCTION store.write_one(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid,
    p_expected bigint, p_body bytea,
    p_username text, p_manager text, p_verb text, p_audit_id text,
    OUT base bigint, OUT outcome smallint, OUT revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
DECLARE
    v_last bigint;
    v_life text;
    v_revision bigint;
    v_uid uuid;
    v_previous_body bytea;
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
    base := v_last;
    revision := v_last + 1;
    PERFORM setval('revisions', revision);
    -- v_previous_body is the head's own, if it was rescued; its event may then be gone.
    IF v_previous_body IS NULL AND v_revision < p_floor THEN
        SELECT e.body INTO v_previous_body FROM events e WHERE e.revision = v_revision;
    END IF;
    IF p_operation = 0 THEN
        INSERT INTO objects (resource, namespace, name, uid, revision, created_revision)
            VALUES (p_resource, p_namespace, p_name, p_uid, write_one.revision, write_one.revision);
    ELSIF p_operation = 1 THEN
        UPDATE objects o SET revision = write_one.revision, body = NULL
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    ELSE
        DELETE FROM objects o
            WHERE o.resource = p_resource AND o.namespace = p_namespace AND o.name = p_name;
    END IF;
    INSERT INTO events (revision, batch, resource, kind, namespace, name, uid, previous_revision,
            recorded_at, username, manager, verb, audit_id, body, previous_body)
        VALUES (write_one.revision, p_batch, p_resource, p_operation, p_namespace, p_name, p_uid, v_revision,
            clock_timestamp(), p_username, p_manager, p_verb, p_audit_id, p_body, v_previous_body);
    IF p_notify THEN
        PERFORM pg_notify('store', revision || ' ' || p_batch);
    END IF;
END $$;

-- Many writes to different keys, as if by write_one in turn; position is that in the arrays, from 1.
-- The lateral subquery with LIMIT 1 and the join by ctid pin the plan to one index probe a write,
-- also when the plan was cached while the table was empty.
CREATE FUNCTION store.write_batch(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[],
    p_expected bigint[], p_body bytea[],
    p_username text[], p_manager text[], p_verb text[], p_audit_id text[])
RETURNS TABLE (base bigint, "position" bigint, outcome smallint, revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_base bigint;
    v_done bigint;
    v_changed bigint;
    v_newest bigint;
    v_positions bigint[];
    v_outcomes smallint[];
    v_revisions bigint[];
BEGIN
    v_base := begin_batch(p_life, p_seen, p_durable);
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

-- A commit that waits until all that was visible when it began is durable, here and on the
-- standbys that count. p_batch wrote revision p_revision, which must still be there: otherwise
-- this is not the server that took it. With p_batch 0 there is nothing to check.
CREATE FUNCTION store.barrier(p_life text, p_revision bigint, p_batch bigint, p_notify boolean)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- What became of batches whose connection broke: their events, once the lock shows that they are
-- over. The message makes this commit wait for all that was committed before it.
CREATE FUNCTION store.resolve_batches(
    p_life text, p_seen bigint, p_batches bigint[], p_after bigint, p_notify boolean)
RETURNS TABLE (batch bigint, resource integer, namespace text, name text, revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- Drops the oldest partition of events if all of it is below p_below and no head needs it.
-- Returns 0 if none is old enough, 1 if it did, 2 if a head needs it.
--
-- The heads are looked through before the lock is taken: a write never makes one that needs an
-- older event than the newest, so what no head needs now none will need again.
CREATE FUNCTION store.drop_events(p_below bigint) RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp SET lock_timeout = '200ms' AS $$
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
    RETURN 1;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA store FROM PUBLIC;
