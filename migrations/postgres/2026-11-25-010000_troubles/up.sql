-- Servers that answer and cannot keep: they get nothing new, and what they have is counted on or not by its kind.

ALTER TABLE server_health ADD COLUMN trouble TEXT;
ALTER TABLE server_health ADD COLUMN troubled TIMESTAMP;
COMMENT ON COLUMN server_health.trouble IS 'Why it cannot keep what it would be given, as a word; the reason says it in a sentence.';
COMMENT ON COLUMN server_health.troubled IS 'Since when it has this trouble (UTC).';

-- Replaced, not dropped: what was granted on it stays.
CREATE OR REPLACE VIEW admin.servers AS
SELECT s.name, lpad(to_hex(s.id), 16, '0') AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM public.replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing,
       h.scrub_alarm, h.trouble
FROM public.servers s
LEFT JOIN public.server_health h ON h.server = s.id
ORDER BY s.name;
