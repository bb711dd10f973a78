-- What the report judges by, told by the servers or seen by the checks.

ALTER TABLE server_health ADD COLUMN stored_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN scrubbed TIMESTAMP;
ALTER TABLE server_health ADD COLUMN clock_ahead_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN answer_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN fill_since TIMESTAMP;
ALTER TABLE server_health ADD COLUMN fill_free_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN fill_bytes_per_day BIGINT NOT NULL DEFAULT 0;
COMMENT ON COLUMN server_health.stored_bytes IS 'Bytes of the replicas that it has, pending ones included.';
COMMENT ON COLUMN server_health.scrubbed IS 'When the replica that was checked least recently was checked (UTC); null when it has none.';
COMMENT ON COLUMN server_health.clock_ahead_ms IS 'How far its wall clock is ahead of the cluster''s time, in milliseconds; negative when it is behind.';
COMMENT ON COLUMN server_health.answer_ms IS 'How long it took to answer the last check, in milliseconds.';
COMMENT ON COLUMN server_health.fill_since IS 'Since when the room that it loses is measured (UTC); begun anew each day.';
COMMENT ON COLUMN server_health.fill_free_bytes IS 'Free bytes at that time.';
COMMENT ON COLUMN server_health.fill_bytes_per_day IS 'How many bytes fewer were free after the last full day.';
