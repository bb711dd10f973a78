CREATE TEMPORARY TABLE counts_granted ON COMMIT DROP AS
SELECT c.relname, a.grantee, pg_get_userbyid(a.grantee) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
WHERE n.nspname = 'admin' AND c.relname IN ('files', 'under_replicated', 'recent_events')
  AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner;

DROP VIEW admin.recent_events;
CREATE VIEW admin.recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail, e.path, e.by_token, e.copies, e.until
FROM public.events e
LEFT JOIN public.servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;
COMMENT ON VIEW admin.recent_events IS 'The last thousand events, the newest first; those about single copies are summed up.';

DROP VIEW admin.under_replicated;
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

DROP VIEW admin.files;
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

DO $$
DECLARE granted record;
BEGIN
    FOR granted IN SELECT * FROM counts_granted LOOP
        EXECUTE format('GRANT SELECT ON admin.%I TO %s', granted.relname,
                       CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(granted.name) END);
    END LOOP;
END $$;
DROP TABLE counts_granted;

DROP TRIGGER counts_truncated ON outbox;
DROP TRIGGER counts_truncated ON repair_queue;
DROP TRIGGER counts_truncated ON replicas;
DROP TRIGGER counts_truncated ON objects;
DROP TRIGGER counts_deleted ON outbox;
DROP TRIGGER counts_inserted ON outbox;
DROP TRIGGER counts_deleted ON repair_queue;
DROP TRIGGER counts_inserted ON repair_queue;
DROP TRIGGER counts_goes ON objects;
DROP TRIGGER counts_updated ON objects;
DROP TRIGGER counts_deleted ON objects;
DROP TRIGGER counts_inserted ON objects;
DROP TRIGGER counts_updated ON replicas;
DROP TRIGGER counts_deleted ON replicas;
DROP TRIGGER counts_inserted ON replicas;
DROP FUNCTION counts_truncated;
DROP FUNCTION counts_outbox_deleted;
DROP FUNCTION counts_outbox_inserted;
DROP FUNCTION counts_repair_deleted;
DROP FUNCTION counts_repair_inserted;
DROP FUNCTION counts_object_goes;
DROP FUNCTION counts_objects_updated;
DROP FUNCTION counts_objects_deleted;
DROP FUNCTION counts_objects_inserted;
DROP FUNCTION counts_replicas_updated;
DROP FUNCTION counts_replicas_deleted;
DROP FUNCTION counts_replicas_inserted;
DROP FUNCTION counts_copies;
DROP FUNCTION counts_recount;
DROP FUNCTION counts_truth;
DROP FUNCTION counts_key;
DROP FUNCTION counts_share;
DROP INDEX repair_queue_stuck;
DROP INDEX outbox_server_version;
DROP INDEX repair_queue_queued;
DROP INDEX outbox_queued;
DROP TABLE counts;
DROP TABLE tallies;
