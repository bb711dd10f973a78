-- What leads from format 2 to format 3: rows can be compared with files directory by directory, and rows without a
-- file are kept apart, because a disk that is not there today may be there tomorrow.
CREATE INDEX replicas_shelf ON replicas (object & 65535) WHERE in_index = 0;

CREATE TABLE missing (
    object          BIGINT NOT NULL,
    generation      BIGINT NOT NULL,
    size            BIGINT NOT NULL,
    sha256          BLOB NOT NULL,
    label           TEXT NOT NULL,
    epoch           BIGINT NOT NULL,
    version         BIGINT,
    ticket_expires  TIMESTAMP NOT NULL,
    state           TEXT NOT NULL,
    in_index        BOOLEAN NOT NULL,
    created         TIMESTAMP NOT NULL,
    verified        TIMESTAMP NOT NULL,
    noticed         TIMESTAMP NOT NULL,
    PRIMARY KEY (object, generation)
) WITHOUT ROWID;

PRAGMA user_version = 3;
