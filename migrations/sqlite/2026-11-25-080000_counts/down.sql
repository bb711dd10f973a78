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
       o.id AS object
FROM tree JOIN objects o ON o.id = tree.object;

DROP VIEW admin_under_replicated;
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

DROP VIEW admin_recent_events;
CREATE VIEW admin_recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object AS object, e.detail, e.path, e.by_token, e.copies, e.until
FROM events e
LEFT JOIN servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;

DROP TRIGGER counts_outbox_deleted;
DROP TRIGGER counts_outbox_inserted;
DROP TRIGGER counts_repair_deleted;
DROP TRIGGER counts_repair_inserted;
DROP TRIGGER counts_object_goes;
DROP TRIGGER counts_object_deleted;
DROP TRIGGER counts_object_updated;
DROP TRIGGER counts_object_inserted;
DROP TRIGGER counts_replica_absent;
DROP TRIGGER counts_replica_deleted;
DROP TRIGGER counts_replica_present;
DROP TRIGGER counts_replica_inserted;
DROP INDEX repair_queue_stuck;
DROP INDEX outbox_server_version;
DROP INDEX repair_queue_queued;
DROP INDEX outbox_queued;
DROP TABLE counts;
DROP TABLE tallies;
