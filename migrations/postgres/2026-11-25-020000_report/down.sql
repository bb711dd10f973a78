ALTER TABLE server_health DROP COLUMN fill_bytes_per_day;
ALTER TABLE server_health DROP COLUMN fill_free_bytes;
ALTER TABLE server_health DROP COLUMN fill_since;
ALTER TABLE server_health DROP COLUMN answer_ms;
ALTER TABLE server_health DROP COLUMN clock_ahead_ms;
ALTER TABLE server_health DROP COLUMN scrubbed;
ALTER TABLE server_health DROP COLUMN stored_bytes;
