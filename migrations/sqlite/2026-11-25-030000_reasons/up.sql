-- The reason of a deletion travels with its order. Events about copies are summed up by cause, and everything that a
-- person asked for has the name of the token. The embedded twin of the Postgres migration.

ALTER TABLE outbox ADD COLUMN reason TEXT NOT NULL DEFAULT 'unknown';
ALTER TABLE outbox ADD COLUMN by_token TEXT;

ALTER TABLE events ADD COLUMN path TEXT;
ALTER TABLE events ADD COLUMN by_token TEXT;
ALTER TABLE events ADD COLUMN cause TEXT;
ALTER TABLE events ADD COLUMN cause_server BIGINT;
ALTER TABLE events ADD COLUMN part_of BIGINT;
ALTER TABLE events ADD COLUMN copies BIGINT;
ALTER TABLE events ADD COLUMN until TIMESTAMP;
DROP INDEX events_server;
DROP INDEX events_kind;
CREATE INDEX events_told ON events (id) WHERE part_of IS NULL;
CREATE INDEX events_told_server ON events (server, id) WHERE part_of IS NULL;
CREATE INDEX events_told_kind ON events (kind, id) WHERE part_of IS NULL;
CREATE INDEX events_told_by ON events (by_token, id) WHERE part_of IS NULL;
CREATE INDEX events_path ON events (path) WHERE path IS NOT NULL;

CREATE TABLE audit (
    id          BIGINT PRIMARY KEY NOT NULL,
    version     BIGINT NOT NULL,
    time        TIMESTAMP NOT NULL,
    kind        TEXT NOT NULL,
    path        TEXT NOT NULL,
    other_path  TEXT,
    by_token    TEXT
);
CREATE INDEX audit_by ON audit (by_token, id);
CREATE INDEX audit_path ON audit (path);
CREATE INDEX audit_other_path ON audit (other_path) WHERE other_path IS NOT NULL;
CREATE INDEX audit_version ON audit (version);

CREATE TABLE removed_servers (
    id        BIGINT PRIMARY KEY NOT NULL,
    name      TEXT NOT NULL,
    url       TEXT NOT NULL,
    removed   TIMESTAMP NOT NULL,
    by_token  TEXT
);

-- Finds the largest number of copies that a directory wants.
CREATE INDEX entries_replication ON entries (replication) WHERE replication IS NOT NULL;

DROP VIEW admin_recent_events;
CREATE VIEW admin_recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail, e.path, e.by_token, e.copies, e.until
FROM events e
LEFT JOIN servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;
