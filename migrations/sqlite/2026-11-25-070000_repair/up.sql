-- Rows of one number of copies that wait stand together and in the order of their objects, so that they are read in pages.
-- The embedded twin of the Postgres migration.
DROP INDEX repair_queue_order;
CREATE INDEX repair_queue_order ON repair_queue (copies, next_attempt, object);
