-- Numbers that people and monitors ask for, kept up to date with the rows that they count by triggers: in the same
-- transaction, so that no crash parts them. The embedded twin of the Postgres migration.

CREATE TABLE tallies (
    name   TEXT PRIMARY KEY NOT NULL CHECK (name IN ('kept', 'audit')),
    up_to  BIGINT NOT NULL
);
INSERT INTO tallies (name, up_to) VALUES ('kept', 9223372036854775807), ('audit', -9223372036854775808);

CREATE TABLE counts (
    tally          TEXT NOT NULL,
    what           TEXT NOT NULL CHECK (what IN ('live', 'repair', 'outbox')),
    servers        TEXT NOT NULL,
    copies_wanted  INTEGER NOT NULL,
    part           INTEGER NOT NULL,
    objects        BIGINT NOT NULL,
    bytes          BIGINT NOT NULL,
    PRIMARY KEY (tally, what, servers, copies_wanted, part)
) WITHOUT ROWID;

CREATE INDEX outbox_queued ON outbox (queued);
CREATE INDEX repair_queue_queued ON repair_queue (queued);
CREATE INDEX outbox_server_version ON outbox (server, version);
-- Objects whose repair keeps failing.
CREATE INDEX repair_queue_stuck ON repair_queue (copies, object) WHERE attempts >= 5;

-- Counting. A copy that comes or goes moves its object from the set of servers that it was on to that which it is on now. -

CREATE TRIGGER counts_replica_inserted AFTER INSERT ON replicas WHEN NEW.state = 'present' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = NEW.object AND r.state = 'present' AND r.server <> NEW.server ORDER BY server)), ''),
           o.copies_wanted, 0, -1, -o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = NEW.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = NEW.object AND r.state = 'present' ORDER BY server)), ''),
           o.copies_wanted, 0, 1, o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = NEW.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_replica_present AFTER UPDATE OF state ON replicas
WHEN NEW.state = 'present' AND OLD.state <> 'present' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = NEW.object AND r.state = 'present' AND r.server <> NEW.server ORDER BY server)), ''),
           o.copies_wanted, 0, -1, -o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = NEW.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = NEW.object AND r.state = 'present' ORDER BY server)), ''),
           o.copies_wanted, 0, 1, o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = NEW.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_replica_deleted AFTER DELETE ON replicas WHEN OLD.state = 'present' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = OLD.object AND r.state = 'present' UNION SELECT OLD.server ORDER BY server)), ''),
           o.copies_wanted, 0, -1, -o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = OLD.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = OLD.object AND r.state = 'present' ORDER BY server)), ''),
           o.copies_wanted, 0, 1, o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = OLD.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_replica_absent AFTER UPDATE OF state ON replicas
WHEN NEW.state <> 'present' AND OLD.state = 'present' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = OLD.object AND r.state = 'present' UNION SELECT OLD.server ORDER BY server)), ''),
           o.copies_wanted, 0, -1, -o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = OLD.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = OLD.object AND r.state = 'present' ORDER BY server)), ''),
           o.copies_wanted, 0, 1, o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = OLD.object AND o.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;

-- Objects are made before their copies and go after them.
CREATE TRIGGER counts_object_inserted AFTER INSERT ON objects WHEN NEW.state = 'live' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', '',
           NEW.copies_wanted, 0, 1, NEW.size
    FROM tallies t WHERE t.up_to >= NEW.id AND NEW.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_object_updated AFTER UPDATE OF state, size, copies_wanted ON objects
WHEN NEW.state <> OLD.state OR NEW.size <> OLD.size OR NEW.copies_wanted <> OLD.copies_wanted BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = OLD.id AND r.state = 'present' ORDER BY server)), ''),
           OLD.copies_wanted, 0, -1, -OLD.size
    FROM tallies t WHERE t.up_to >= OLD.id AND OLD.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live',
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = NEW.id AND r.state = 'present' ORDER BY server)), ''),
           NEW.copies_wanted, 0, 1, NEW.size
    FROM tallies t WHERE t.up_to >= NEW.id AND NEW.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_object_deleted AFTER DELETE ON objects WHEN OLD.state = 'live' BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', '',
           OLD.copies_wanted, 0, -1, -OLD.size
    FROM tallies t WHERE t.up_to >= OLD.id AND OLD.state = 'live'
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
-- What waits for repair goes before its object, which says how large it was.
CREATE TRIGGER counts_object_goes BEFORE DELETE ON objects BEGIN
    DELETE FROM repair_queue WHERE object = OLD.id;
END;

CREATE TRIGGER counts_repair_inserted AFTER INSERT ON repair_queue BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'repair', '', 0, 0, 1, o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = NEW.object
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_repair_deleted AFTER DELETE ON repair_queue BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'repair', '', 0, 0, -1, -o.size
    FROM objects o JOIN tallies t ON t.up_to >= o.id WHERE o.id = OLD.object
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_outbox_inserted AFTER INSERT ON outbox BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'outbox', printf('%016x', NEW.server), 0, 0, 1, 0 FROM tallies t WHERE t.up_to >= NEW.object
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER counts_outbox_deleted AFTER DELETE ON outbox BEGIN
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'outbox', printf('%016x', OLD.server), 0, 0, -1, 0 FROM tallies t WHERE t.up_to >= OLD.object
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
END;

-- What there is already.
INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
SELECT 'kept', 'live', held.servers, held.copies_wanted, 0, count(*), sum(held.size)
FROM (
    SELECT o.copies_wanted, o.size,
           coalesce((SELECT group_concat(printf('%016x', server), ' ') FROM (
               SELECT r.server AS server FROM replicas r
               WHERE r.object = o.id AND r.state = 'present' ORDER BY server)), '') AS servers
    FROM objects o WHERE o.state = 'live') AS held
GROUP BY held.servers, held.copies_wanted;
INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
SELECT 'kept', 'repair', '', 0, 0, count(*), coalesce(sum(o.size), 0)
FROM repair_queue q JOIN objects o ON o.id = q.object;
INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
SELECT 'kept', 'outbox', printf('%016x', b.server), 0, 0, count(*), 0 FROM outbox b GROUP BY b.server;

-- Ids of objects as everybody else shows them.
DROP VIEW admin_files;
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
       printf('%016x', o.id) AS object
FROM tree JOIN objects o ON o.id = tree.object;

DROP VIEW admin_under_replicated;
CREATE VIEW admin_under_replicated AS
SELECT printf('%016x', o.id) AS object, o.label, o.size, o.copies_wanted,
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

DROP VIEW admin_recent_events;
CREATE VIEW admin_recent_events AS
SELECT e.time, e.kind, s.name AS server, CASE WHEN e.object IS NOT NULL THEN printf('%016x', e.object) END AS object, e.detail, e.path, e.by_token, e.copies, e.until
FROM events e
LEFT JOIN servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;
