ALTER TABLE server_health DROP COLUMN index_changes;
