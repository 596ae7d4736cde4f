-- Work that one pod at a time does: who does it, and until when unless the lease is renewed. One row for each role.
CREATE TABLE leases (
    role       text        PRIMARY KEY,
    holder     text        NOT NULL,
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    -- Renewed every second. With room on its page a new version stays there, and the index is not touched.
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);
