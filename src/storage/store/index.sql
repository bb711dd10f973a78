CREATE TABLE replicas (
    object          BIGINT NOT NULL,
    generation      BIGINT NOT NULL,
    size            BIGINT NOT NULL,
    sha256          BLOB NOT NULL,
    label           TEXT NOT NULL,
    epoch           BIGINT NOT NULL,
    version         BIGINT,
    ticket_expires  TIMESTAMP NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'committed')),
    in_index        BOOLEAN NOT NULL,
    created         TIMESTAMP NOT NULL,
    verified        TIMESTAMP NOT NULL,
    PRIMARY KEY (object, generation)
) WITHOUT ROWID;

CREATE INDEX replicas_pending ON replicas (created) WHERE state = 'pending';
CREATE INDEX replicas_verified ON replicas (verified);

CREATE TABLE small_bytes (
    object      BIGINT NOT NULL,
    generation  BIGINT NOT NULL,
    bytes       BLOB NOT NULL,
    PRIMARY KEY (object, generation)
);

CREATE TABLE settings (
    name   TEXT PRIMARY KEY NOT NULL,
    value  BIGINT NOT NULL
);

CREATE TABLE totals (
    id       INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    objects  BIGINT NOT NULL,
    bytes    BIGINT NOT NULL
);
INSERT INTO totals VALUES (1, 0, 0);

CREATE TRIGGER replicas_added AFTER INSERT ON replicas BEGIN
    UPDATE totals SET objects = objects + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER replicas_removed AFTER DELETE ON replicas BEGIN
    UPDATE totals SET objects = objects - 1, bytes = bytes - OLD.size;
END;

PRAGMA user_version = 2;
