-- The metadata of a Holdfast cluster. docs/postgres.md explains it to administrators.
-- All times are UTC. Names compare by bytes (COLLATE "C"), as on SQLite and in every listing.

CREATE TABLE cluster (
    id            SMALLINT PRIMARY KEY CHECK (id = 1),
    cluster_id    TEXT NOT NULL,
    history_id    TEXT NOT NULL,
    epoch         BIGINT NOT NULL,
    mode          TEXT NOT NULL CHECK (mode IN ('normal', 'read_only', 'restoring')),
    mode_reason   TEXT,
    last_version  BIGINT NOT NULL,
    tip           BYTEA NOT NULL,
    clock_floor   TIMESTAMP NOT NULL,
    created       TIMESTAMP NOT NULL
);

CREATE TABLE servers (
    id           BIGINT PRIMARY KEY,
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
    server          BIGINT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    health          TEXT NOT NULL CHECK (health IN ('live', 'suspect', 'down')),
    since           TIMESTAMP NOT NULL,
    reason          TEXT,
    boot_id         TEXT NOT NULL,
    capacity_bytes  BIGINT NOT NULL,
    free_bytes      BIGINT NOT NULL,
    last_seen       TIMESTAMP
);

CREATE TABLE objects (
    id             BIGINT PRIMARY KEY,
    state          TEXT NOT NULL CHECK (state IN ('live', 'deleted', 'aborted')),
    size           BIGINT NOT NULL CHECK (size >= 0),
    sha256         BYTEA NOT NULL,
    copies_wanted  INTEGER NOT NULL,
    label          TEXT NOT NULL,
    version        BIGINT NOT NULL,
    created        TIMESTAMP NOT NULL,
    forget_after   TIMESTAMP
);
CREATE INDEX objects_forget_after ON objects (forget_after) WHERE forget_after IS NOT NULL;

CREATE TABLE entries (
    id           BIGINT PRIMARY KEY,
    parent       BIGINT REFERENCES entries (id),
    name         TEXT COLLATE "C" NOT NULL,
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
    entry     BIGINT PRIMARY KEY REFERENCES entries (id) ON DELETE CASCADE,
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
    object        BIGINT PRIMARY KEY REFERENCES objects (id) ON DELETE CASCADE,
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
    tip         BYTEA NOT NULL,
    created     TIMESTAMP NOT NULL,
    PRIMARY KEY (version, seq)
);

CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    holder   TEXT NOT NULL,
    term     BIGINT NOT NULL,
    expires  TIMESTAMP NOT NULL
);

CREATE TABLE tokens (
    name     TEXT PRIMARY KEY,
    sha256   BYTEA NOT NULL UNIQUE,
    role     TEXT NOT NULL CHECK (role IN ('reader', 'writer', 'superuser')),
    prefix   TEXT,
    created  TIMESTAMP NOT NULL,
    expires  TIMESTAMP
);

CREATE TABLE events (
    id      BIGINT PRIMARY KEY,
    time    TIMESTAMP NOT NULL,
    kind    TEXT NOT NULL,
    object  BIGINT,
    server  BIGINT,
    detail  TEXT NOT NULL
);
CREATE INDEX events_object ON events (object, id) WHERE object IS NOT NULL;
CREATE INDEX events_server ON events (server, id) WHERE server IS NOT NULL;

-- What \d+ shows -------------------------------------------------------------------------------------

COMMENT ON TABLE cluster IS 'The cluster itself: one row. Every change of the namespace locks it first, so versions are commit order.';
COMMENT ON COLUMN cluster.id IS 'Always 1.';
COMMENT ON COLUMN cluster.cluster_id IS 'UUID of the cluster; tickets and storage servers carry it.';
COMMENT ON COLUMN cluster.history_id IS 'Random UUID, new with every restore; tells branches of history apart.';
COMMENT ON COLUMN cluster.epoch IS 'Raised by every restore; everything signed under an older one is refused.';
COMMENT ON COLUMN cluster.mode IS 'normal, read_only or restoring; in the last two nothing is committed, deleted or repaired.';
COMMENT ON COLUMN cluster.mode_reason IS 'Why the mode is not normal.';
COMMENT ON COLUMN cluster.last_version IS 'Number of the newest metadata change; dense and rising.';
COMMENT ON COLUMN cluster.tip IS 'SHA-256 chained over all changes up to last_version.';
COMMENT ON COLUMN cluster.clock_floor IS 'Expiry is never judged by a time before this one; purging raises it, because clocks jump back.';
COMMENT ON COLUMN cluster.created IS 'When the cluster was initialised (UTC).';

COMMENT ON TABLE servers IS 'Storage servers that have registered.';
COMMENT ON COLUMN servers.id IS 'The first 63 bits of the identity.';
COMMENT ON COLUMN servers.identity IS 'UUID that the storage server made for itself when its directory was created.';
COMMENT ON COLUMN servers.name IS 'What people call it.';
COMMENT ON COLUMN servers.host IS 'The machine it runs on; copies of an object go to different hosts.';
COMMENT ON COLUMN servers.url IS 'Where other servers reach it.';
COMMENT ON COLUMN servers.public_url IS 'Where clients reach it.';
COMMENT ON COLUMN servers.zone IS 'Rack, room or site; empty when not told.';
COMMENT ON COLUMN servers.admin_state IS 'in_service, draining or drained; set by a person.';
COMMENT ON COLUMN servers.registered IS 'When it first registered (UTC).';

COMMENT ON TABLE server_health IS 'What the health checks saw last; written often, never journaled.';
COMMENT ON COLUMN server_health.server IS 'The storage server.';
COMMENT ON COLUMN server_health.health IS 'live, suspect (missed a check) or down (missed them for long).';
COMMENT ON COLUMN server_health.since IS 'Since when it has this health (UTC).';
COMMENT ON COLUMN server_health.reason IS 'Why it is not live.';
COMMENT ON COLUMN server_health.boot_id IS 'UUID that is new with each start of the server.';
COMMENT ON COLUMN server_health.capacity_bytes IS 'Bytes of its file system.';
COMMENT ON COLUMN server_health.free_bytes IS 'Bytes that new objects may take.';
COMMENT ON COLUMN server_health.last_seen IS 'When it last answered (UTC).';

COMMENT ON TABLE objects IS 'The immutable bytes of one version of one file. Files that were copied share one.';
COMMENT ON COLUMN objects.id IS 'Time-ordered 63-bit id; 16 hexadecimal digits elsewhere.';
COMMENT ON COLUMN objects.state IS 'live; deleted (no entry refers to it any more); aborted (its upload was never committed).';
COMMENT ON COLUMN objects.size IS 'Bytes.';
COMMENT ON COLUMN objects.sha256 IS 'SHA-256 of the bytes; empty when aborted.';
COMMENT ON COLUMN objects.copies_wanted IS 'Copies wanted: the largest over the entries that refer to it.';
COMMENT ON COLUMN objects.label IS 'The path at the commit.';
COMMENT ON COLUMN objects.version IS 'The change that committed it.';
COMMENT ON COLUMN objects.created IS 'When it was committed (UTC).';
COMMENT ON COLUMN objects.forget_after IS 'When the row of a deleted or aborted object may go, because no ticket can name it any more (UTC).';

COMMENT ON TABLE entries IS 'Files and directories. An entry that does not reach the root is invisible: a removed directory that is being emptied, or a copy being built.';
COMMENT ON COLUMN entries.id IS 'Time-ordered 63-bit id; 1 is the root.';
COMMENT ON COLUMN entries.parent IS 'The directory that holds it; null for the root and for what is detached from it.';
COMMENT ON COLUMN entries.name IS 'The last component of its path.';
COMMENT ON COLUMN entries.kind IS 'file or directory.';
COMMENT ON COLUMN entries.object IS 'The bytes of a file.';
COMMENT ON COLUMN entries.replication IS 'Of a directory: copies wanted of new files below it; null inherits.';
COMMENT ON COLUMN entries.version IS 'The change that made it what it is.';
COMMENT ON COLUMN entries.created IS 'When it was made (UTC).';
COMMENT ON COLUMN entries.modified IS 'When its content was last changed (UTC).';

COMMENT ON TABLE building IS 'Directory copies that are being built out of sight; removed by the reaper after their deadline.';
COMMENT ON COLUMN building.entry IS 'The top directory of the copy.';
COMMENT ON COLUMN building.deadline IS 'When the builder counts as dead (UTC).';

COMMENT ON TABLE replicas IS 'Which server holds which object.';
COMMENT ON COLUMN replicas.object IS 'The object.';
COMMENT ON COLUMN replicas.server IS 'The storage server.';
COMMENT ON COLUMN replicas.generation IS 'Random number that tells this copy from any other of the object on the server.';
COMMENT ON COLUMN replicas.state IS 'present, or copying while it is on its way.';
COMMENT ON COLUMN replicas.created IS 'When the row was made (UTC).';
COMMENT ON COLUMN replicas.verified IS 'When the bytes were last checked against the hash (UTC).';

COMMENT ON TABLE repair_queue IS 'Objects to look at again because copies are short; the fewest copies first.';
COMMENT ON COLUMN repair_queue.object IS 'The object.';
COMMENT ON COLUMN repair_queue.copies IS 'Healthy copies when it was queued: the priority.';
COMMENT ON COLUMN repair_queue.queued IS 'When it was queued (UTC).';
COMMENT ON COLUMN repair_queue.next_attempt IS 'Not before this time (UTC).';
COMMENT ON COLUMN repair_queue.attempts IS 'Tries so far.';
COMMENT ON COLUMN repair_queue.last_error IS 'Why the last try failed.';

COMMENT ON TABLE outbox IS 'Deletions that storage servers still have to carry out.';
COMMENT ON COLUMN outbox.server IS 'The storage server.';
COMMENT ON COLUMN outbox.object IS 'The object.';
COMMENT ON COLUMN outbox.generation IS 'The copy; no other one is touched.';
COMMENT ON COLUMN outbox.version IS 'The change that caused it.';
COMMENT ON COLUMN outbox.queued IS 'When it was queued (UTC).';
COMMENT ON COLUMN outbox.not_before IS 'Read tickets for the object are good until then (UTC).';

COMMENT ON TABLE journal IS 'The changed rows of entries, objects, tokens and servers, in version order.';
COMMENT ON COLUMN journal.version IS 'The change.';
COMMENT ON COLUMN journal.seq IS 'Numbers the rows of one change from 0.';
COMMENT ON COLUMN journal.table_name IS 'The table of the changed row.';
COMMENT ON COLUMN journal.row_key IS 'Its primary key.';
COMMENT ON COLUMN journal.content IS 'Its new content as JSON; null when it is gone.';
COMMENT ON COLUMN journal.tip IS 'SHA-256 over the tip before and this row.';
COMMENT ON COLUMN journal.created IS 'When the change was made (UTC).';

COMMENT ON TABLE leases IS 'Who acts: the name server that holds the lease runs the acting actors.';
COMMENT ON COLUMN leases.name IS 'What the lease is for.';
COMMENT ON COLUMN leases.holder IS 'The name server that holds it.';
COMMENT ON COLUMN leases.term IS 'Raised at each takeover.';
COMMENT ON COLUMN leases.expires IS 'When another may take it (UTC).';

COMMENT ON TABLE tokens IS 'Bearer tokens of people and programs; only their hashes.';
COMMENT ON COLUMN tokens.name IS 'What people call it.';
COMMENT ON COLUMN tokens.sha256 IS 'SHA-256 of the token.';
COMMENT ON COLUMN tokens.role IS 'reader, writer or superuser.';
COMMENT ON COLUMN tokens.prefix IS 'Only at and below this path; null for everywhere.';
COMMENT ON COLUMN tokens.created IS 'When it was made (UTC).';
COMMENT ON COLUMN tokens.expires IS 'When it ends; null for never (UTC).';

COMMENT ON TABLE events IS 'What happened to which object or server, and why. Only ever added to.';
COMMENT ON COLUMN events.id IS 'Time-ordered id.';
COMMENT ON COLUMN events.time IS 'When (UTC).';
COMMENT ON COLUMN events.kind IS 'What sort of thing.';
COMMENT ON COLUMN events.object IS 'The object it is about.';
COMMENT ON COLUMN events.server IS 'The storage server it is about.';
COMMENT ON COLUMN events.detail IS 'What happened and why, in words.';

-- Views for people -------------------------------------------------------------------------------------

CREATE SCHEMA admin;
COMMENT ON SCHEMA admin IS 'Views of a Holdfast cluster for people; read-only by nature.';

CREATE VIEW admin.servers AS
SELECT s.name, lpad(to_hex(s.id), 16, '0') AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM public.replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas
FROM public.servers s
LEFT JOIN public.server_health h ON h.server = s.id
ORDER BY s.name;
COMMENT ON VIEW admin.servers IS 'Storage servers with their health and how much is on them.';

CREATE VIEW admin.files AS
WITH RECURSIVE tree AS (
    SELECT e.id, ''::text COLLATE "C" AS path, e.kind, e.object, e.version, e.modified
    FROM public.entries e WHERE e.id = 1
    UNION ALL
    SELECT e.id, tree.path || '/' || e.name, e.kind, e.object, e.version, e.modified
    FROM tree JOIN public.entries e ON e.parent = tree.id
)
SELECT tree.path, o.size, encode(o.sha256, 'hex') AS sha256, tree.version, tree.modified, o.copies_wanted,
       (SELECT count(*) FROM public.replicas r WHERE r.object = o.id AND r.state = 'present') AS copies,
       (SELECT string_agg(s.name, ', ' ORDER BY s.name) FROM public.replicas r
        JOIN public.servers s ON s.id = r.server WHERE r.object = o.id AND r.state = 'present') AS servers,
       o.id AS object
FROM tree JOIN public.objects o ON o.id = tree.object;
COMMENT ON VIEW admin.files IS 'Every file with its full path, size, hash, copies and servers. Walks the whole tree: on a large one, filter by object.';

CREATE VIEW admin.under_replicated AS
SELECT o.id AS object, o.label, o.size, o.copies_wanted,
       count(r.server) FILTER (WHERE h.health IS DISTINCT FROM 'down') AS copies,
       q.attempts, q.next_attempt, q.last_error
FROM public.objects o
LEFT JOIN public.replicas r ON r.object = o.id AND r.state = 'present'
LEFT JOIN public.server_health h ON h.server = r.server
LEFT JOIN public.repair_queue q ON q.object = o.id
WHERE o.state = 'live'
GROUP BY o.id, q.object
HAVING count(r.server) FILTER (WHERE h.health IS DISTINCT FROM 'down') < o.copies_wanted
ORDER BY copies, o.id;
COMMENT ON VIEW admin.under_replicated IS 'Objects with fewer copies than wanted on servers that are not down; the most endangered first.';

CREATE VIEW admin.outbox_backlog AS
SELECT s.name, h.health, count(*) AS deletions, min(b.queued) AS oldest
FROM public.outbox b
JOIN public.servers s ON s.id = b.server
LEFT JOIN public.server_health h ON h.server = s.id
GROUP BY s.name, h.health
ORDER BY deletions DESC;
COMMENT ON VIEW admin.outbox_backlog IS 'Deletions that wait for each storage server.';

CREATE VIEW admin.recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail
FROM public.events e
LEFT JOIN public.servers s ON s.id = e.server
ORDER BY e.id DESC
LIMIT 1000;
COMMENT ON VIEW admin.recent_events IS 'The last thousand events, the newest first.';

CREATE VIEW admin.usage_by_directory AS
WITH RECURSIVE tree AS (
    SELECT e.id, e.name AS directory, e.kind, e.object
    FROM public.entries e WHERE e.parent = 1
    UNION ALL
    SELECT e.id, tree.directory, e.kind, e.object
    FROM tree JOIN public.entries e ON e.parent = tree.id
)
SELECT '/' || tree.directory AS directory, count(tree.object) AS files, coalesce(sum(o.size), 0)::bigint AS bytes,
       coalesce(sum(o.size * o.copies_wanted), 0)::bigint AS bytes_with_copies
FROM tree LEFT JOIN public.objects o ON o.id = tree.object
GROUP BY tree.directory
ORDER BY bytes DESC;
COMMENT ON VIEW admin.usage_by_directory IS 'Files and bytes below each entry of the root. Files that share an object count each.';
