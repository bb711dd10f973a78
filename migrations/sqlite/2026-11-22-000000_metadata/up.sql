-- The metadata of a Holdfast cluster. The embedded twin of the Postgres schema.
-- All times are UTC. Names compare by bytes.

CREATE TABLE cluster (
    id            SMALLINT PRIMARY KEY NOT NULL CHECK (id = 1),
    cluster_id    TEXT NOT NULL,
    history_id    TEXT NOT NULL,
    epoch         BIGINT NOT NULL,
    mode          TEXT NOT NULL CHECK (mode IN ('normal', 'read_only', 'restoring')),
    mode_reason   TEXT,
    last_version  BIGINT NOT NULL,
    tip           BLOB NOT NULL,
    clock_floor   TIMESTAMP NOT NULL,
    created       TIMESTAMP NOT NULL
);

CREATE TABLE servers (
    id           BIGINT PRIMARY KEY NOT NULL,
    identity     TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    host         TEXT NOT NULL,
    url          TEXT NOT NULL,
    public_url   TEXT NOT NULL,
    zone         TEXT NOT NULL,
    admin_state  TEXT NOT NULL CHECK (admin_state IN ('in_service', 'draining', 'drained')),
    registered   TIMESTAMP NOT NULL
);

CREATE TABLE server_health (
    server          BIGINT PRIMARY KEY NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    health          TEXT NOT NULL CHECK (health IN ('live', 'suspect', 'down')),
    since           TIMESTAMP NOT NULL,
    reason          TEXT,
    boot_id         TEXT NOT NULL,
    capacity_bytes  BIGINT NOT NULL,
    free_bytes      BIGINT NOT NULL,
    last_seen       TIMESTAMP
);

CREATE TABLE objects (
    id             BIGINT PRIMARY KEY NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('live', 'deleted', 'aborted')),
    size           BIGINT NOT NULL CHECK (size >= 0),
    sha256         BLOB NOT NULL,
    copies_wanted  INTEGER NOT NULL,
    label          TEXT NOT NULL,
    version        BIGINT NOT NULL,
    created        TIMESTAMP NOT NULL,
    forget_after   TIMESTAMP
);
CREATE INDEX objects_forget_after ON objects (forget_after) WHERE forget_after IS NOT NULL;

CREATE TABLE entries (
    id           BIGINT PRIMARY KEY NOT NULL,
    parent       BIGINT REFERENCES entries (id),
    name         TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('file', 'directory')),
    object       BIGINT REFERENCES objects (id),
    replication  INTEGER CHECK (replication >= 1),
    version      BIGINT NOT NULL,
    created      TIMESTAMP NOT NULL,
    modified     TIMESTAMP NOT NULL,
    UNIQUE (parent, name),
    CHECK ((kind = 'file') = (object IS NOT NULL))
);
CREATE INDEX entries_object ON entries (object) WHERE object IS NOT NULL;

CREATE TABLE building (
    entry     BIGINT PRIMARY KEY NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    deadline  TIMESTAMP NOT NULL
);

CREATE TABLE replicas (
    object      BIGINT NOT NULL REFERENCES objects (id),
    server      BIGINT NOT NULL REFERENCES servers (id),
    generation  BIGINT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('copying', 'present')),
    created     TIMESTAMP NOT NULL,
    verified    TIMESTAMP,
    PRIMARY KEY (object, server)
);
CREATE INDEX replicas_server ON replicas (server, object);

CREATE TABLE repair_queue (
    object        BIGINT PRIMARY KEY NOT NULL REFERENCES objects (id) ON DELETE CASCADE,
    copies        INTEGER NOT NULL,
    queued        TIMESTAMP NOT NULL,
    next_attempt  TIMESTAMP NOT NULL,
    attempts      INTEGER NOT NULL,
    last_error    TEXT
);
CREATE INDEX repair_queue_order ON repair_queue (copies, next_attempt);

CREATE TABLE outbox (
    server      BIGINT NOT NULL REFERENCES servers (id),
    object      BIGINT NOT NULL,
    generation  BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    queued      TIMESTAMP NOT NULL,
    not_before  TIMESTAMP NOT NULL,
    PRIMARY KEY (server, object, generation)
);
CREATE INDEX outbox_order ON outbox (server, not_before);

CREATE TABLE journal (
    version     BIGINT NOT NULL,
    seq         INTEGER NOT NULL,
    table_name  TEXT NOT NULL,
    row_key     TEXT NOT NULL,
    content     TEXT,
    tip         BLOB NOT NULL,
    created     TIMESTAMP NOT NULL,
    PRIMARY KEY (version, seq)
);

CREATE TABLE leases (
    name     TEXT PRIMARY KEY NOT NULL,
    holder   TEXT NOT NULL,
    term     BIGINT NOT NULL,
    expires  TIMESTAMP NOT NULL
);

CREATE TABLE tokens (
    name     TEXT PRIMARY KEY NOT NULL,
    sha256   BLOB NOT NULL UNIQUE,
    role     TEXT NOT NULL CHECK (role IN ('reader', 'writer', 'superuser')),
    prefix   TEXT,
    created  TIMESTAMP NOT NULL,
    expires  TIMESTAMP
);

CREATE TABLE events (
    id      BIGINT PRIMARY KEY NOT NULL,
    time    TIMESTAMP NOT NULL,
    kind    TEXT NOT NULL,
    object  BIGINT,
    server  BIGINT,
    detail  TEXT NOT NULL
);
CREATE INDEX events_object ON events (object, id) WHERE object IS NOT NULL;
CREATE INDEX events_server ON events (server, id) WHERE server IS NOT NULL;

-- Views for people: those of the schema admin on Postgres, with admin_ in front of their names. ----------

CREATE VIEW admin_servers AS
SELECT s.name, printf('%016x', s.id) AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas
FROM servers s
LEFT JOIN server_health h ON h.server = s.id
ORDER BY s.name;

CREATE VIEW admin_files AS
WITH RECURSIVE tree AS (
    SELECT e.id, '' AS path, e.kind, e.object, e.version, e.modified
    FROM entries e WHERE e.id = 1
    UNION ALL
    SELECT e.id, tree.path || '/' || e.name, e.kind, e.object, e.version, e.modified
    FROM tree JOIN entries e ON e.parent = tree.id
)
SELECT tree.path, o.size, lower(hex(o.sha256)) AS sha256, tree.version, tree.modified, o.copies_wanted,
       (SELECT count(*) FROM replicas r WHERE r.object = o.id AND r.state = 'present') AS copies,
       (SELECT group_concat(name, ', ') FROM (SELECT s.name FROM replicas r
        JOIN servers s ON s.id = r.server WHERE r.object = o.id AND r.state = 'present' ORDER BY s.name)) AS servers,
       o.id AS object
FROM tree JOIN objects o ON o.id = tree.object;

CREATE VIEW admin_under_replicated AS
SELECT o.id AS object, o.label, o.size, o.copies_wanted,
       count(r.server) FILTER (WHERE h.health IS NOT 'down') AS copies,
       q.attempts, q.next_attempt, q.last_error
FROM objects o
LEFT JOIN replicas r ON r.object = o.id AND r.state = 'present'
LEFT JOIN server_health h ON h.server = r.server
LEFT JOIN repair_queue q ON q.object = o.id
WHERE o.state = 'live'
GROUP BY o.id
HAVING count(r.server) FILTER (WHERE h.health IS NOT 'down') < o.copies_wanted
ORDER BY copies, o.id;

CREATE VIEW admin_outbox_backlog AS
SELECT s.name, h.health, count(*) AS deletions, min(b.queued) AS oldest
FROM outbox b
JOIN servers s ON s.id = b.server
LEFT JOIN server_health h ON h.server = s.id
GROUP BY s.name, h.health
ORDER BY deletions DESC;

CREATE VIEW admin_recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail
FROM events e
LEFT JOIN servers s ON s.id = e.server
ORDER BY e.id DESC
LIMIT 1000;

CREATE VIEW admin_usage_by_directory AS
WITH RECURSIVE tree AS (
    SELECT e.id, e.name AS directory, e.kind, e.object
    FROM entries e WHERE e.parent = 1
    UNION ALL
    SELECT e.id, tree.directory, e.kind, e.object
    FROM tree JOIN entries e ON e.parent = tree.id
)
SELECT '/' || tree.directory AS directory, count(tree.object) AS files, coalesce(sum(o.size), 0) AS bytes,
       coalesce(sum(o.size * o.copies_wanted), 0) AS bytes_with_copies
FROM tree LEFT JOIN objects o ON o.id = tree.object
GROUP BY tree.directory
ORDER BY bytes DESC;
