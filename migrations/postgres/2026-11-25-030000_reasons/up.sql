-- The reason of a deletion travels with its order. Events about copies are summed up by cause, and everything that a
-- person asked for has the name of the token.

ALTER TABLE outbox ADD COLUMN reason TEXT NOT NULL DEFAULT 'unknown';
ALTER TABLE outbox ADD COLUMN by_token TEXT;
COMMENT ON COLUMN outbox.reason IS 'Why, as a word: removed, replaced, surplus, draining, outdated, ...; unknown when it was queued by an older version.';
COMMENT ON COLUMN outbox.by_token IS 'Name of the token that asked for the change; null when nobody did, or it is not known.';

ALTER TABLE events ADD COLUMN path TEXT COLLATE "C";
ALTER TABLE events ADD COLUMN by_token TEXT;
ALTER TABLE events ADD COLUMN cause TEXT;
ALTER TABLE events ADD COLUMN cause_server BIGINT;
ALTER TABLE events ADD COLUMN part_of BIGINT;
ALTER TABLE events ADD COLUMN copies BIGINT;
ALTER TABLE events ADD COLUMN until TIMESTAMP;
COMMENT ON COLUMN events.path IS 'The path that it is about; of an object the path at its commit. Of a sum the first one.';
COMMENT ON COLUMN events.by_token IS 'Name of the token that asked for it.';
COMMENT ON COLUMN events.cause IS 'Why a copy was made or deleted, as a word.';
COMMENT ON COLUMN events.cause_server IS 'The storage server that is the cause: the one that went down, drains or came back.';
COMMENT ON COLUMN events.part_of IS 'The event that sums this one up; null for sums and for what stands by itself.';
COMMENT ON COLUMN events.copies IS 'Of a sum: how many copies.';
COMMENT ON COLUMN events.until IS 'Of a sum: when the last of them was (UTC).';
DROP INDEX events_server;
DROP INDEX events_kind;
CREATE INDEX events_told ON events (id) WHERE part_of IS NULL;
CREATE INDEX events_told_server ON events (server, id) WHERE part_of IS NULL;
CREATE INDEX events_told_kind ON events (kind, id) WHERE part_of IS NULL;
CREATE INDEX events_told_by ON events (by_token, id) WHERE part_of IS NULL;
CREATE INDEX events_path ON events (path) WHERE path IS NOT NULL;

CREATE TABLE audit (
    id          BIGINT PRIMARY KEY,
    version     BIGINT NOT NULL,
    time        TIMESTAMP NOT NULL,
    kind        TEXT NOT NULL,
    path        TEXT COLLATE "C" NOT NULL,
    other_path  TEXT COLLATE "C",
    by_token    TEXT
);
CREATE INDEX audit_by ON audit (by_token, id);
CREATE INDEX audit_path ON audit (path);
CREATE INDEX audit_other_path ON audit (other_path) WHERE other_path IS NOT NULL;
CREATE INDEX audit_version ON audit (version);
COMMENT ON TABLE audit IS 'Who asked for which change of the namespace; kept as long as the journal (--journal-keep), and no part of it.';
COMMENT ON COLUMN audit.id IS 'Time-ordered id, of the same kind as those of events.';
COMMENT ON COLUMN audit.version IS 'The change.';
COMMENT ON COLUMN audit.time IS 'When (UTC).';
COMMENT ON COLUMN audit.kind IS 'What sort of change, as a kind of event.';
COMMENT ON COLUMN audit.path IS 'The path, as it was named.';
COMMENT ON COLUMN audit.other_path IS 'Of a move or a copy: the new path.';
COMMENT ON COLUMN audit.by_token IS 'Name of the token that asked for it; null when it is not known.';

CREATE TABLE removed_servers (
    id        BIGINT PRIMARY KEY,
    name      TEXT NOT NULL,
    url       TEXT NOT NULL,
    removed   TIMESTAMP NOT NULL,
    by_token  TEXT
);
COMMENT ON TABLE removed_servers IS 'Storage servers that a person removed: they are refused until they are readmitted (holdfast undrain).';
COMMENT ON COLUMN removed_servers.id IS 'The id that it had.';
COMMENT ON COLUMN removed_servers.name IS 'What people called it.';
COMMENT ON COLUMN removed_servers.url IS 'Where it was reached.';
COMMENT ON COLUMN removed_servers.removed IS 'When it was removed (UTC).';
COMMENT ON COLUMN removed_servers.by_token IS 'Name of the token that removed it.';

-- Finds the largest number of copies that a directory wants.
CREATE INDEX entries_replication ON entries (replication) WHERE replication IS NOT NULL;

-- Replaced, not dropped: what was granted on it stays.
CREATE OR REPLACE VIEW admin.recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail, e.path, e.by_token, e.copies, e.until
FROM public.events e
LEFT JOIN public.servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;
COMMENT ON VIEW admin.recent_events IS 'The last thousand events, the newest first; those about single copies are summed up.';
