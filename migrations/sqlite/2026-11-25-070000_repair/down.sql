DROP INDEX repair_queue_order;
CREATE INDEX repair_queue_order ON repair_queue (copies, next_attempt);

-- Whatever waited for a change is looked at by its time again.
UPDATE repair_queue SET next_attempt = queued WHERE next_attempt >= '9999-01-01';
