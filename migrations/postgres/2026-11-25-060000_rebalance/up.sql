-- Filling servers evenly: the run, and the copies that it moves. Not journaled: a restored cluster has nothing under way.

CREATE TABLE rebalances (
    id              BIGINT PRIMARY KEY,
    state           TEXT NOT NULL,
    within_percent  INTEGER NOT NULL,
    started         TIMESTAMP NOT NULL,
    ended           TIMESTAMP,
    by_token        TEXT,
    moved           BIGINT NOT NULL DEFAULT 0,
    moved_bytes     BIGINT NOT NULL DEFAULT 0,
    left_bytes      BIGINT,
    note            TEXT NOT NULL DEFAULT ''
);
COMMENT ON TABLE rebalances IS 'The last run of filling servers evenly; one row at most.';
COMMENT ON COLUMN rebalances.id IS 'Time-ordered id.';
COMMENT ON COLUMN rebalances.state IS 'running, done or stopped.';
COMMENT ON COLUMN rebalances.within_percent IS 'It ends when servers are filled within so many percent of each other.';
COMMENT ON COLUMN rebalances.started IS 'When a person began it (UTC).';
COMMENT ON COLUMN rebalances.ended IS 'When it ended (UTC); null while it runs.';
COMMENT ON COLUMN rebalances.by_token IS 'The name of the token that began it.';
COMMENT ON COLUMN rebalances.moved IS 'Copies that were moved.';
COMMENT ON COLUMN rebalances.moved_bytes IS 'Their bytes.';
COMMENT ON COLUMN rebalances.left_bytes IS 'About how many bytes are left to move; null before they were counted.';
COMMENT ON COLUMN rebalances.note IS 'What it waits for, or why it ended.';

CREATE TABLE moves (
    object  BIGINT PRIMARY KEY REFERENCES objects (id) ON DELETE CASCADE,
    server  BIGINT NOT NULL,
    begun   TIMESTAMP NOT NULL
);
COMMENT ON TABLE moves IS 'Objects of which one copy is being moved.';
COMMENT ON COLUMN moves.object IS 'The object.';
COMMENT ON COLUMN moves.server IS 'The server whose copy goes when the new one is there.';
COMMENT ON COLUMN moves.begun IS 'When the copying began (UTC).';
