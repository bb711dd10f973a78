-- Long work that somebody asked for, and what came of it. Not journaled: it says nothing about files.

CREATE TABLE jobs (
    kind      TEXT PRIMARY KEY,
    id        BIGINT NOT NULL,
    holder    TEXT NOT NULL,
    state     TEXT NOT NULL,
    started   TIMESTAMP NOT NULL,
    beat      TIMESTAMP NOT NULL,
    ended     TIMESTAMP,
    by_token  TEXT,
    request   TEXT NOT NULL,
    step      TEXT NOT NULL,
    report    TEXT NOT NULL
);
COMMENT ON TABLE jobs IS 'Long work that somebody asked for (fsck, scrubbing a path): the last of each kind.';
COMMENT ON COLUMN jobs.kind IS 'fsck or scrub.';
COMMENT ON COLUMN jobs.id IS 'Time-ordered id.';
COMMENT ON COLUMN jobs.holder IS 'The process that does it.';
COMMENT ON COLUMN jobs.state IS 'running, done or failed. One that runs and has no sign of life any more was interrupted.';
COMMENT ON COLUMN jobs.started IS 'When it was begun (UTC).';
COMMENT ON COLUMN jobs.beat IS 'The last sign of life (UTC).';
COMMENT ON COLUMN jobs.ended IS 'When it ended (UTC).';
COMMENT ON COLUMN jobs.by_token IS 'The name of the token that began it.';
COMMENT ON COLUMN jobs.request IS 'What was asked for, as JSON.';
COMMENT ON COLUMN jobs.step IS 'How far it is, or the error that ended it.';
COMMENT ON COLUMN jobs.report IS 'What was found so far, or in all, as JSON.';
