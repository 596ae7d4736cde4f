-- The pods that there are, one row each. A pod that stops deletes its row; that of a pod that was killed stays for a day.
CREATE TABLE pods (
    pod        text        PRIMARY KEY,
    version    text        NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    -- When due orders last waited in it for longer than a moment.
    busy_at    timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
