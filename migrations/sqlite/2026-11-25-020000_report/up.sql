-- What the report judges by, told by the servers or seen by the checks.

ALTER TABLE server_health ADD COLUMN stored_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN scrubbed TIMESTAMP;
ALTER TABLE server_health ADD COLUMN clock_ahead_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN answer_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN fill_since TIMESTAMP;
ALTER TABLE server_health ADD COLUMN fill_free_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE server_health ADD COLUMN fill_bytes_per_day BIGINT NOT NULL DEFAULT 0;
