-- Leads from a key that is free to the last life of its object, and from one life to the one before.
-- Only deletions pay for it.

CREATE INDEX events_deletions ON store.events (resource, namespace, name, revision) WHERE kind = 2;

INSERT INTO store.compatibility (version, oldest_program) VALUES (2, 1);
