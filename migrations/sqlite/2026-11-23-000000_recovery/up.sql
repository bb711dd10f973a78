-- What repair, return, journal copies and restore need. The embedded twin of the Postgres migration.

ALTER TABLE server_health ADD COLUMN synced_boot TEXT NOT NULL DEFAULT '';
ALTER TABLE cluster ADD COLUMN journal_copied BIGINT NOT NULL DEFAULT 0;

CREATE TABLE restores (
    id       BIGINT PRIMARY KEY NOT NULL,
    started  TIMESTAMP NOT NULL,
    ended    TIMESTAMP,
    report   TEXT NOT NULL
);

CREATE INDEX replicas_copying ON replicas (created) WHERE state = 'copying';
CREATE INDEX outbox_version ON outbox (version);

DROP VIEW admin_servers;
CREATE VIEW admin_servers AS
SELECT s.name, printf('%016x', s.id) AS server, s.host, s.zone, s.url, h.health, h.reason, s.admin_state, h.last_seen,
       h.capacity_bytes, h.free_bytes,
       (SELECT count(*) FROM replicas r WHERE r.server = s.id AND r.state = 'present') AS replicas,
       h.health <> 'down' AND h.boot_id <> h.synced_boot AS syncing
FROM servers s
LEFT JOIN server_health h ON h.server = s.id
ORDER BY s.name;
