-- Where a life of the database begins, and which one is refused.

INSERT INTO store.compatibility VALUES (4, 1);

-- The newest timeline that an operator has given up for this life; empty for none.
ALTER TABLE store.epochs ADD COLUMN accepted text COLLATE "C" NOT NULL DEFAULT '';

-- Begins a life, under the lock. Its revisions lie above those of this log, those that a caller
-- has seen (p_seen), and those of earlier lives that began with the same log and are gone without a
-- trace, as when a dump is restored twice: each began at the time of day, and none allots 2^21
-- revisions a second. Revisions stay below 2^53 until the year 2106.
CREATE FUNCTION store.begin_life(p_now store.epochs, p_seen bigint, p_is_first boolean)
RETURNS store.epochs LANGUAGE plpgsql SET search_path = store, pg_temp AS $$
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

-- What this database is: an epoch without a number.
CREATE FUNCTION store.this_database() RETURNS store.epochs
LANGUAGE plpgsql SET search_path = store, pg_temp AS $$
DECLARE v_now epochs;
BEGIN
    v_now.system_id := (SELECT system_identifier FROM pg_control_system());
    v_now.timeline := split_part(incarnation(), '.', 1);
    v_now.objects_oid := split_part(incarnation(), '.', 2)::oid;
    v_now.database_oid := (SELECT oid FROM pg_database WHERE datname = current_database());
    RETURN v_now;
END $$;

-- The epoch of the database as it is now; begins a new one after a restore or a failover. The
-- caller has been shown the event at p_seen, which batch p_batch wrote (0 if it knows of none): a
-- log that does not have it has lost it. p_followed is what the caller followed last, as this
-- function returned it: if this database was on a later timeline then, a standby has taken over and this
-- is the primary of before, which nobody may write to or read from.
CREATE FUNCTION store.open_life(p_seen bigint, p_batch bigint, p_followed text,
    OUT epoch integer, OUT life text, OUT start_revision bigint, OUT database text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = store, pg_temp AS $$
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

CREATE OR REPLACE FUNCTION store.open_life(p_seen bigint, p_batch bigint,
    OUT epoch integer, OUT life text, OUT start_revision bigint, OUT database text)
LANGUAGE sql SECURITY DEFINER SET search_path = store, pg_temp AS $$
    SELECT * FROM open_life(p_seen, p_batch, '')
$$;

-- The operator's word, given by the owner of the schema in the database that is to go on: what was
-- written on later timelines, up to p_timeline, is given up. Returns where the new life begins.
CREATE FUNCTION store.accept_timeline(p_timeline text) RETURNS bigint
LANGUAGE plpgsql SECURITY INVOKER SET search_path = store, pg_temp AS $$
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
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA store FROM PUBLIC;
