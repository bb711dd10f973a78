-- Servers that answer and cannot keep: they get nothing new, and what they have is counted on or not by its kind.

ALTER TABLE server_health ADD COLUMN trouble TEXT;
ALTER TABLE server_health ADD COLUMN troubled TIMESTAMP;

DROP VIEW admin_servers;
CREATE VIEW admin_servers AS
SELECT s.name, printf('%016x', s.id) AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing,
       h.scrub_alarm, h.trouble
FROM servers s
LEFT JOIN server_health h ON h.server = s.id
ORDER BY s.name;
