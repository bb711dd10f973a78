DROP VIEW admin_recent_events;
CREATE VIEW admin_recent_events AS
SELECT e.time, e.kind, s.name AS server, e.object, e.detail
FROM events e
LEFT JOIN servers s ON s.id = e.server
ORDER BY e.id DESC
LIMIT 1000;
DROP INDEX entries_replication;
DROP TABLE removed_servers;
DROP TABLE audit;
DROP INDEX events_path;
DROP INDEX events_told_by;
DROP INDEX events_told_kind;
DROP INDEX events_told_server;
DROP INDEX events_told;
CREATE INDEX events_server ON events (server, id) WHERE server IS NOT NULL;
CREATE INDEX events_kind ON events (kind, id);
DELETE FROM events WHERE copies IS NOT NULL;
ALTER TABLE events DROP COLUMN until;
ALTER TABLE events DROP COLUMN copies;
ALTER TABLE events DROP COLUMN part_of;
ALTER TABLE events DROP COLUMN cause_server;
ALTER TABLE events DROP COLUMN cause;
ALTER TABLE events DROP COLUMN by_token;
ALTER TABLE events DROP COLUMN path;
ALTER TABLE outbox DROP COLUMN by_token;
ALTER TABLE outbox DROP COLUMN reason;
