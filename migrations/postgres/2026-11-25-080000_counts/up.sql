-- Numbers that people and monitors ask for, kept up to date with the rows that they count by triggers of statements: in
-- the same transaction, so that no crash parts them. docs/decisions/0064 has the reasons.

CREATE TABLE tallies (
    name   TEXT PRIMARY KEY CHECK (name IN ('kept', 'audit')),
    up_to  BIGINT NOT NULL
);
INSERT INTO tallies (name, up_to) VALUES ('kept', 9223372036854775807), ('audit', (-9223372036854775808)::bigint);

COMMENT ON TABLE tallies IS 'What is counted: everything (kept), and what the audit has counted anew so far (audit).';
COMMENT ON COLUMN tallies.name IS 'kept or audit.';
COMMENT ON COLUMN tallies.up_to IS 'Changes of objects with ids up to this one are counted here as well.';

CREATE TABLE counts (
    tally          TEXT NOT NULL,
    what           TEXT NOT NULL CHECK (what IN ('live', 'repair', 'outbox')),
    servers        TEXT COLLATE "C" NOT NULL,
    copies_wanted  INTEGER NOT NULL,
    part           INTEGER NOT NULL,
    objects        BIGINT NOT NULL,
    bytes          BIGINT NOT NULL,
    PRIMARY KEY (tally, what, servers, copies_wanted, part)
) WITH (fillfactor = 50);

COMMENT ON TABLE counts IS 'How many objects are on which servers. Rows that differ in part only are summed up; they are changed by triggers alone.';
COMMENT ON COLUMN counts.tally IS 'kept, or audit while everything is counted anew.';
COMMENT ON COLUMN counts.what IS 'live: live objects; repair: the repair queue; outbox: deletions that wait.';
COMMENT ON COLUMN counts.servers IS 'live: all servers with a copy that is present, by id, with blanks between them; outbox: the server; else empty.';
COMMENT ON COLUMN counts.copies_wanted IS 'live: copies wanted; else 0.';
COMMENT ON COLUMN counts.part IS 'The connection (its process id) that counted, so that transactions do not wait for each other; 0 when summed up.';
COMMENT ON COLUMN counts.objects IS 'How many; those of one part may be less than none.';
COMMENT ON COLUMN counts.bytes IS 'Their bytes, once each; 0 for the outbox.';

-- The oldest that waits, without reading all.
CREATE INDEX outbox_queued ON outbox (queued);
CREATE INDEX repair_queue_queued ON repair_queue (queued);
-- The newest change that a server's deletions wait for.
CREATE INDEX outbox_server_version ON outbox (server, version);
-- Objects whose repair keeps failing.
CREATE INDEX repair_queue_stuck ON repair_queue (copies, object) WHERE attempts >= 5;

-- Counting --------------------------------------------------------------------------------------------------------

-- Whoever counts shares this lock until the end of the transaction; the audit, which must see whole transactions only,
-- takes it alone, and gives up rather than wait.
CREATE OR REPLACE FUNCTION counts_share() RETURNS void LANGUAGE sql AS
$$ SELECT pg_advisory_xact_lock_shared(x'686f6c64636e7473'::bigint) $$;

CREATE OR REPLACE FUNCTION counts_key(ids BIGINT[]) RETURNS TEXT LANGUAGE sql IMMUTABLE AS
$$ SELECT coalesce(string_agg(lpad(to_hex(id), 16, '0'), ' ' ORDER BY id), '') FROM unnest(ids) AS id $$;

-- What there is to count of objects with ids in (after, up_to], from the rows themselves.
CREATE OR REPLACE FUNCTION counts_truth(after BIGINT, up_to BIGINT)
RETURNS TABLE (what TEXT, servers TEXT, copies_wanted INTEGER, objects BIGINT, bytes BIGINT) LANGUAGE sql STABLE AS $$
    SELECT 'live', held.servers, held.copies_wanted, count(*), sum(held.size)::bigint
    FROM (
        SELECT o.copies_wanted, o.size,
               (SELECT coalesce(string_agg(lpad(to_hex(r.server), 16, '0'), ' ' ORDER BY r.server), '')
                FROM replicas r WHERE r.object = o.id AND r.state = 'present') AS servers
        FROM objects o WHERE o.state = 'live' AND o.id > $1 AND o.id <= $2) AS held
    GROUP BY held.servers, held.copies_wanted
    UNION ALL
    SELECT 'repair', '', 0, count(*), sum(o.size)::bigint
    FROM repair_queue q JOIN objects o ON o.id = q.object WHERE q.object > $1 AND q.object <= $2
    HAVING count(*) > 0
    UNION ALL
    SELECT 'outbox', lpad(to_hex(s.id), 16, '0'), 0, count(*), 0::bigint
    FROM servers s JOIN outbox b ON b.server = s.id WHERE b.object > $1 AND b.object <= $2
    GROUP BY s.id
$$;

-- Counts everything anew.
CREATE OR REPLACE FUNCTION counts_recount() RETURNS void LANGUAGE sql AS $$
    DELETE FROM counts;
    UPDATE tallies SET up_to = (-9223372036854775808)::bigint WHERE name = 'audit';
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT 'kept', t.what, t.servers, t.copies_wanted, 0, t.objects, t.bytes
    FROM counts_truth((-9223372036854775808)::bigint, 9223372036854775807) AS t;
$$;

-- Copies came to these objects and went from them: they move from the set of servers that they were on to that which they
-- are on now. Whoever changes copies holds the object's lock, so nobody else changes them meanwhile. The settings keep
-- to the indexes whatever size the tables had when the plan was made.
CREATE OR REPLACE FUNCTION counts_copies(changed BIGINT[], places BIGINT[], arrivals BOOLEAN[]) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_nestloop = on SET jit = off AS $$
BEGIN
    IF cardinality(changed) = 0 THEN RETURN; END IF;
    PERFORM counts_share();
    WITH touched AS MATERIALIZED (
        SELECT c.object, coalesce(array_agg(c.server) FILTER (WHERE c.came), '{}') AS came,
               coalesce(array_agg(c.server) FILTER (WHERE NOT c.came), '{}') AS went
        FROM unnest(changed, places, arrivals) AS c (object, server, came)
        GROUP BY c.object),
    held AS MATERIALIZED (
        SELECT o.id, o.copies_wanted, o.size, t.came, t.went,
               ARRAY(SELECT r.server FROM replicas r WHERE r.object = o.id AND r.state = 'present') AS now_on
        FROM touched t JOIN objects o ON o.id = t.object AND o.state = 'live'),
    moved AS MATERIALIZED (
        SELECT h.id, h.copies_wanted, h.size, 1 AS n, counts_key(h.now_on) AS servers FROM held h
        UNION ALL
        SELECT h.id, h.copies_wanted, h.size, -1,
               counts_key(ARRAY(SELECT s FROM unnest(h.now_on) AS s WHERE s <> ALL (h.came)) || h.went) FROM held h)
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', m.servers, m.copies_wanted, pg_backend_pid(), sum(m.n), sum(m.n * m.size)::bigint
    FROM moved m JOIN tallies t ON t.up_to >= m.id
    GROUP BY t.name, m.servers, m.copies_wanted
    HAVING sum(m.n) <> 0 OR sum(m.n * m.size) <> 0
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
END $$;

CREATE OR REPLACE FUNCTION counts_replicas_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_copies(array_agg(n.object), array_agg(n.server), array_agg(true))
    FROM new_rows n WHERE n.state = 'present' HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_replicas_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_copies(array_agg(o.object), array_agg(o.server), array_agg(false))
    FROM old_rows o WHERE o.state = 'present' HAVING count(*) > 0;
    RETURN NULL;
END $$;
-- A copy keeps its object and its server as long as it lives.
CREATE OR REPLACE FUNCTION counts_replicas_updated() RETURNS trigger LANGUAGE plpgsql
SET enable_nestloop = off SET jit = off AS $$
BEGIN
    PERFORM counts_copies(array_agg(n.object), array_agg(n.server), array_agg(n.state = 'present'))
    FROM new_rows n JOIN old_rows o ON o.object = n.object AND o.server = n.server
    WHERE n.state <> o.state HAVING count(*) > 0;
    RETURN NULL;
END $$;

-- Objects are made before their copies and go after them.
CREATE OR REPLACE FUNCTION counts_objects_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', '', n.copies_wanted, pg_backend_pid(), count(*), sum(n.size)::bigint
    FROM new_rows n JOIN tallies t ON t.up_to >= n.id
    WHERE n.state = 'live' GROUP BY t.name, n.copies_wanted
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_objects_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', '', o.copies_wanted, pg_backend_pid(), -count(*), -sum(o.size)::bigint
    FROM old_rows o JOIN tallies t ON t.up_to >= o.id
    WHERE o.state = 'live' GROUP BY t.name, o.copies_wanted
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_objects_updated() RETURNS trigger LANGUAGE plpgsql
SET enable_nestloop = off SET jit = off AS $$
BEGIN
    PERFORM counts_share();
    WITH changed AS MATERIALIZED (
        SELECT n.id, o.state AS old_state, n.state AS new_state, o.size AS old_size, n.size AS new_size,
               o.copies_wanted AS old_wanted, n.copies_wanted AS new_wanted,
               counts_key(ARRAY(SELECT r.server FROM replicas r WHERE r.object = n.id AND r.state = 'present')) AS servers
        FROM new_rows n JOIN old_rows o ON o.id = n.id
        WHERE (n.state, n.size, n.copies_wanted) IS DISTINCT FROM (o.state, o.size, o.copies_wanted)),
    moved AS MATERIALIZED (
        SELECT c.id, c.servers, c.new_wanted AS copies_wanted, 1 AS n, c.new_size AS size FROM changed c WHERE c.new_state = 'live'
        UNION ALL
        SELECT c.id, c.servers, c.old_wanted, -1, c.old_size FROM changed c WHERE c.old_state = 'live')
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'live', m.servers, m.copies_wanted, pg_backend_pid(), sum(m.n), sum(m.n * m.size)::bigint
    FROM moved m JOIN tallies t ON t.up_to >= m.id
    GROUP BY t.name, m.servers, m.copies_wanted
    HAVING sum(m.n) <> 0 OR sum(m.n * m.size) <> 0
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
    RETURN NULL;
END $$;
-- What waits for repair goes before its object, which says how large it was.
CREATE OR REPLACE FUNCTION counts_object_goes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Looking is cheap, and a restore removes millions that do not wait.
    IF EXISTS (SELECT 1 FROM repair_queue q WHERE q.object = OLD.id) THEN
        DELETE FROM repair_queue WHERE object = OLD.id;
    END IF;
    RETURN OLD;
END $$;

CREATE OR REPLACE FUNCTION counts_repair_inserted() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'repair', '', 0, pg_backend_pid(), count(*), sum(o.size)::bigint
    FROM new_rows n JOIN objects o ON o.id = n.object JOIN tallies t ON t.up_to >= n.object GROUP BY t.name
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_repair_deleted() RETURNS trigger LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'repair', '', 0, pg_backend_pid(), -count(*), -sum(o.size)::bigint
    FROM old_rows q JOIN objects o ON o.id = q.object JOIN tallies t ON t.up_to >= q.object GROUP BY t.name
    ON CONFLICT (tally, what, servers, copies_wanted, part)
    DO UPDATE SET objects = counts.objects + EXCLUDED.objects, bytes = counts.bytes + EXCLUDED.bytes;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_outbox_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'outbox', lpad(to_hex(n.server), 16, '0'), 0, pg_backend_pid(), count(*), 0
    FROM new_rows n JOIN tallies t ON t.up_to >= n.object GROUP BY t.name, n.server
    ON CONFLICT (tally, what, servers, copies_wanted, part) DO UPDATE SET objects = counts.objects + EXCLUDED.objects;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_outbox_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_share();
    INSERT INTO counts (tally, what, servers, copies_wanted, part, objects, bytes)
    SELECT t.name, 'outbox', lpad(to_hex(o.server), 16, '0'), 0, pg_backend_pid(), -count(*), 0
    FROM old_rows o JOIN tallies t ON t.up_to >= o.object GROUP BY t.name, o.server
    ON CONFLICT (tally, what, servers, copies_wanted, part) DO UPDATE SET objects = counts.objects + EXCLUDED.objects;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION counts_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM counts_recount();
    RETURN NULL;
END $$;

CREATE TRIGGER counts_inserted AFTER INSERT ON replicas REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_replicas_inserted();
CREATE TRIGGER counts_deleted AFTER DELETE ON replicas REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_replicas_deleted();
CREATE TRIGGER counts_updated AFTER UPDATE ON replicas REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_replicas_updated();
CREATE TRIGGER counts_inserted AFTER INSERT ON objects REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_objects_inserted();
CREATE TRIGGER counts_deleted AFTER DELETE ON objects REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_objects_deleted();
CREATE TRIGGER counts_updated AFTER UPDATE ON objects REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_objects_updated();
CREATE TRIGGER counts_goes BEFORE DELETE ON objects FOR EACH ROW EXECUTE FUNCTION counts_object_goes();
CREATE TRIGGER counts_inserted AFTER INSERT ON repair_queue REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_repair_inserted();
CREATE TRIGGER counts_deleted AFTER DELETE ON repair_queue REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_repair_deleted();
CREATE TRIGGER counts_inserted AFTER INSERT ON outbox REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_outbox_inserted();
CREATE TRIGGER counts_deleted AFTER DELETE ON outbox REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION counts_outbox_deleted();
CREATE TRIGGER counts_truncated AFTER TRUNCATE ON objects FOR EACH STATEMENT EXECUTE FUNCTION counts_truncated();
CREATE TRIGGER counts_truncated AFTER TRUNCATE ON replicas FOR EACH STATEMENT EXECUTE FUNCTION counts_truncated();
CREATE TRIGGER counts_truncated AFTER TRUNCATE ON repair_queue FOR EACH STATEMENT EXECUTE FUNCTION counts_truncated();
CREATE TRIGGER counts_truncated AFTER TRUNCATE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION counts_truncated();

SELECT counts_recount();

-- Ids of objects as everybody else shows them -----------------------------------------------------------------------

-- The type of a column changes, so the views are made anew; what was granted on them stays.
CREATE TEMPORARY TABLE counts_granted ON COMMIT DROP AS
SELECT c.relname, a.grantee, pg_get_userbyid(a.grantee) AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
WHERE n.nspname = 'admin' AND c.relname IN ('files', 'under_replicated', 'recent_events')
  AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner;

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
       lpad(to_hex(o.id), 16, '0') AS object
FROM tree JOIN public.objects o ON o.id = tree.object;
COMMENT ON VIEW admin.files IS 'Every file with its full path, size, hash, copies and servers. Walks the whole tree, whatever the condition.';

DROP VIEW admin.under_replicated;
CREATE VIEW admin.under_replicated AS
SELECT lpad(to_hex(o.id), 16, '0') AS object, o.label, o.size, o.copies_wanted,
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

DROP VIEW admin.recent_events;
CREATE VIEW admin.recent_events AS
SELECT e.time, e.kind, s.name AS server, lpad(to_hex(e.object), 16, '0') AS object, e.detail, e.path, e.by_token, e.copies,
       e.until
FROM public.events e
LEFT JOIN public.servers s ON s.id = e.server
WHERE e.part_of IS NULL
ORDER BY e.id DESC
LIMIT 1000;
COMMENT ON VIEW admin.recent_events IS 'The last thousand events, the newest first; those about single copies are summed up.';

DO $$
DECLARE granted record;
BEGIN
    FOR granted IN SELECT * FROM counts_granted LOOP
        EXECUTE format('GRANT SELECT ON admin.%I TO %s', granted.relname,
                       CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(granted.name) END);
    END LOOP;
END $$;
DROP TABLE counts_granted;
