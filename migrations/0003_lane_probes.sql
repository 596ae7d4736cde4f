-- Probes: small messages that go through the delay lanes to show that the lanes deliver. One row for each probe that is on
-- its way, and for the last one of each lane that came back. The rows decide nothing but what an operator is told.

CREATE TABLE lane_probes (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Random: a message that was not placed by us cannot name it, so it cannot make a lane look well.
    token        text        NOT NULL DEFAULT gen_random_uuid()::text,
    queue        text        NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When the broker had taken responsibility for it, and until when it must be back.
    placed_at    timestamptz,
    due_at       timestamptz,
    returned_at  timestamptz,
    CONSTRAINT lane_probes_token_unique UNIQUE (token),
    CONSTRAINT lane_probes_due_iff_placed CHECK ((placed_at IS NULL) = (due_at IS NULL)),
    CONSTRAINT lane_probes_due_after_placed CHECK (due_at > placed_at)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
