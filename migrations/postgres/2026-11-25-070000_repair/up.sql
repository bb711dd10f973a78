-- Rows of one number of copies that wait stand together and in the order of their objects, so that they are read in pages.
DROP INDEX repair_queue_order;
CREATE INDEX repair_queue_order ON repair_queue (copies, next_attempt, object);

COMMENT ON COLUMN repair_queue.copies IS 'Copies at hand: on servers in service that are neither down nor failing; the priority.';
COMMENT ON COLUMN repair_queue.next_attempt IS 'Not before this time (UTC); 9999-01-01 for what waits until the storage servers change.';
