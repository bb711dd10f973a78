-- Long work that somebody asked for. The embedded twin of the Postgres migration.

CREATE TABLE jobs (
    kind      TEXT PRIMARY KEY NOT NULL,
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
