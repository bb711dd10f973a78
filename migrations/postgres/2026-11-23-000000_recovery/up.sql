-- What repair, return, journal copies and restore need.

ALTER TABLE server_health ADD COLUMN synced_boot TEXT NOT NULL DEFAULT '';
COMMENT ON COLUMN server_health.synced_boot IS 'The boot id whose inventory was compared with the metadata; another one than boot_id means syncing.';

ALTER TABLE cluster ADD COLUMN journal_copied BIGINT NOT NULL DEFAULT 0;
COMMENT ON COLUMN cluster.journal_copied IS 'All changes up to this version are on the required copies of the journal; only their deletions are carried out.';

CREATE TABLE restores (
    id       BIGINT PRIMARY KEY,
    started  TIMESTAMP NOT NULL,
    ended    TIMESTAMP,
    report   TEXT NOT NULL
);
COMMENT ON TABLE restores IS 'Restores of this database from the storage servers, and what they found.';
COMMENT ON COLUMN restores.id IS 'Time-ordered id.';
COMMENT ON COLUMN restores.started IS 'When it was started (UTC).';
COMMENT ON COLUMN restores.ended IS 'When it ended (UTC); null when it was interrupted.';
COMMENT ON COLUMN restores.report IS 'What was restored, lost, in conflict and in doubt, as JSON.';

CREATE INDEX replicas_copying ON replicas (created) WHERE state = 'copying';
CREATE INDEX outbox_version ON outbox (version);

-- Replaced, not dropped: what was granted on it stays.
CREATE OR REPLACE VIEW admin.servers AS
SELECT s.name, lpad(to_hex(s.id), 16, '0') AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM public.replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing
FROM public.servers s
LEFT JOIN public.server_health h ON h.server = s.id
ORDER BY s.name;
