-- Where the log begins. What is compacted is promised to nobody any more, and is still there for a
-- while: a process that has not read it yet need not begin anew.

INSERT INTO store.compatibility VALUES (6, 1);

-- All events below it are gone.
ALTER TABLE store.compaction ADD COLUMN dropped bigint NOT NULL DEFAULT 0;
UPDATE store.compaction SET dropped = coalesce((SELECT min(from_revision) FROM store.event_partitions()), 0);

-- Drops the oldest partition if all of it is below p_below and compacted: 1 if it did, 0 if there is
-- none, 2 if an object needs it.
CREATE OR REPLACE FUNCTION store.drop_events(p_below bigint) RETURNS smallint
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
    UPDATE compaction SET dropped = greatest(dropped, v_below);
    RETURN 1;
END $$;
