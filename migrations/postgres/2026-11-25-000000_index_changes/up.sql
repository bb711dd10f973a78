-- Of two copies of one data directory the one whose index has seen more changes is newer.

ALTER TABLE server_health ADD COLUMN index_changes BIGINT NOT NULL DEFAULT 0;
COMMENT ON COLUMN server_health.index_changes IS 'Changes that its index had when it was last heard of; an older copy of its directory has fewer.';
