-- Bodies are stored with a checksum, so that what a disk has changed is found and not served.
--
-- A sum is the CRC-64/XZ of namespace, a zero byte, name, a zero byte, uid and body, computed by the
-- program that writes and checked by the one that reads. Rows of before have none and are
-- not checked.

INSERT INTO store.compatibility VALUES (5, 1);

ALTER TABLE store.objects ADD COLUMN sum bigint;           -- of body
ALTER TABLE store.events ADD COLUMN sum bigint;            -- of body
ALTER TABLE store.events ADD COLUMN previous_sum bigint;   -- of previous_body

-- Seconds since 1970 of the latest time that was recorded, so that recorded times rise to the
-- second although the wall clock may go back.
CREATE SEQUENCE store.clock AS bigint;

-- The time to record, under the lock. A clock that was hours ahead is forgotten: history would be
-- kept until then. Without a setting of its own: a call would cost as much as a write.
CREATE FUNCTION store.time_to_record() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
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

-- One write. Outcome: 0 done, 1 exists, 2 missing, 3 conflict; revision is the new one, or that
-- of what is there. The lock is its own statement: what follows sees all that was committed
-- before it was granted. Unless p_durable, nothing of it may be told before a barrier. Below p_floor
-- the event keeps the body that it replaces; with a negative one that body is not even read, since it
-- may be damaged.
CREATE FUNCTION store.write_one(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid,
    p_expected bigint, p_body bytea, p_sum bigint,
    p_username text, p_manager text, p_verb text, p_audit_id text,
    OUT base bigint, OUT outcome smallint, OUT revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- Many writes to different keys, as if by write_one in turn; position is that in the arrays, from 1.
-- The lateral subqueries with LIMIT 1 and the join by ctid pin the plan to one index probe a write,
-- also when the plan was cached while the table was empty.
CREATE FUNCTION store.write_batch(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[],
    p_expected bigint[], p_body bytea[], p_sum bigint[],
    p_username text[], p_manager text[], p_verb text[], p_audit_id text[])
RETURNS TABLE (base bigint, "position" bigint, outcome smallint, revision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

-- What programs of the version before call: writes without a sum.
CREATE OR REPLACE FUNCTION store.write_one(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint, p_resource integer, p_namespace text, p_name text, p_uid uuid,
    p_expected bigint, p_body bytea,
    p_username text, p_manager text, p_verb text, p_audit_id text,
    OUT base bigint, OUT outcome smallint, OUT revision bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = store, pg_temp AS $$
    SELECT * FROM write_one(p_life, p_seen, p_batch, p_floor, p_durable, p_notify,
        p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body, NULL::bigint,
        p_username, p_manager, p_verb, p_audit_id)
$$;

CREATE OR REPLACE FUNCTION store.write_batch(
    p_life text, p_seen bigint, p_batch bigint, p_floor bigint, p_durable boolean, p_notify boolean,
    p_operation smallint[], p_resource integer[], p_namespace text[], p_name text[], p_uid uuid[],
    p_expected bigint[], p_body bytea[],
    p_username text[], p_manager text[], p_verb text[], p_audit_id text[])
RETURNS TABLE (base bigint, "position" bigint, outcome smallint, revision bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = store, pg_temp AS $$
    SELECT * FROM write_batch(p_life, p_seen, p_batch, p_floor, p_durable, p_notify,
        p_operation, p_resource, p_namespace, p_name, p_uid, p_expected, p_body, NULL::bigint[],
        p_username, p_manager, p_verb, p_audit_id)
$$;

-- Copies the bodies of these heads out of the log, under the lock: a write in between would move
-- the row. Heads that have moved on are left alone.
CREATE OR REPLACE FUNCTION store.rescue_bodies(
    p_resource integer[], p_namespace text[], p_name text[], p_revision bigint[])
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA store FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA store FROM PUBLIC;
