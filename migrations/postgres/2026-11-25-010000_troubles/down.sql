DROP VIEW admin.servers;
CREATE VIEW admin.servers AS
SELECT s.name, lpad(to_hex(s.id), 16, '0') AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM public.replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing,
       h.scrub_alarm
FROM public.servers s
LEFT JOIN public.server_health h ON h.server = s.id
ORDER BY s.name;
COMMENT ON VIEW admin.servers IS 'Storage servers with their health and how much is on them.';
ALTER TABLE server_health DROP COLUMN troubled;
ALTER TABLE server_health DROP COLUMN trouble;
