-- Of two copies of one data directory the one whose index has seen more changes is newer.

ALTER TABLE server_health ADD COLUMN index_changes BIGINT NOT NULL DEFAULT 0;
