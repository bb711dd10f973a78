-- Servers that no longer trust their disk get nothing new. Events of one kind are found without reading all.

ALTER TABLE server_health ADD COLUMN scrub_alarm BOOLEAN NOT NULL DEFAULT FALSE;
COMMENT ON COLUMN server_health.scrub_alarm IS 'It found so many corrupt copies at once that it no longer trusts its disk or its memory.';

-- Replaced, not dropped: what was granted on it stays.
CREATE OR REPLACE VIEW admin.servers AS
SELECT s.name, lpad(to_hex(s.id), 16, '0') AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM public.replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing,
       h.scrub_alarm
FROM public.servers s
LEFT JOIN public.server_health h ON h.server = s.id
ORDER BY s.name;

CREATE INDEX events_kind ON events (kind, id);
COMMENT ON TABLE events IS 'What happened to which object or server, and why. Old ones go (--events-keep).';
