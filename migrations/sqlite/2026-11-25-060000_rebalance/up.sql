-- Filling servers evenly. The embedded twin of the Postgres migration.

CREATE TABLE rebalances (
    id              BIGINT PRIMARY KEY NOT NULL,
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

CREATE TABLE moves (
    object  BIGINT PRIMARY KEY NOT NULL REFERENCES objects (id) ON DELETE CASCADE,
    server  BIGINT NOT NULL,
    begun   TIMESTAMP NOT NULL
);
