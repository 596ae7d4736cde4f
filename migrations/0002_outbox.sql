-- What must reach the broker, recorded in the transaction that made it true; the relay publishes and deletes it.
-- One row carries many orders (parallel arrays), so that a bulk insert or a closed batch costs one row, not thousands.

CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text          NOT NULL,
    recorded_at timestamptz   NOT NULL DEFAULT now(),
    order_ids   bigint[]      NOT NULL,
    deadlines   timestamptz[] NOT NULL,
    user_ids    bigint[],
    CONSTRAINT outbox_kind_known CHECK (kind IN ('wake', 'order.closed', 'order.cancelled')),
    CONSTRAINT outbox_not_empty CHECK (cardinality(order_ids) > 0),
    CONSTRAINT outbox_one_deadline_per_order CHECK (cardinality(deadlines) = cardinality(order_ids)),
    CONSTRAINT outbox_one_user_per_event CHECK (
        CASE kind WHEN 'wake' THEN user_ids IS NULL
                  ELSE coalesce(cardinality(user_ids), -1) = cardinality(order_ids) END)
) WITH (
    -- The table is a queue: nearly every row is dead soon, so vacuum by count and not by share.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000
);

-- A row holds at most 500 orders: it bounds what the relay reads at once when a shop inserts a million orders.
-- SET search_path: the shop's session may have another one than the session that ran this migration.
CREATE FUNCTION overdue_wake_inserted() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO outbox (kind, order_ids, deadlines)
    SELECT 'wake', array_agg(order_id), array_agg(payment_deadline)
    FROM (SELECT order_id, payment_deadline, (row_number() OVER () - 1) / 500 AS chunk
          FROM inserted WHERE status = 'PENDING') AS waiting
    GROUP BY chunk;
    RETURN NULL;
END $$;

CREATE TRIGGER orders_wake_inserted AFTER INSERT ON orders
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION overdue_wake_inserted();

-- A moved deadline, or an order that became PENDING (again), needs a wake; the old wake finds it not due and is harmless.
CREATE FUNCTION overdue_wake_moved() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO outbox (kind, order_ids, deadlines)
    SELECT 'wake', array_agg(order_id), array_agg(payment_deadline)
    FROM (SELECT after.order_id, after.payment_deadline, (row_number() OVER () - 1) / 500 AS chunk
          FROM after_update AS after LEFT JOIN before_update AS before USING (order_id)
          WHERE after.status = 'PENDING'
            AND (before.payment_deadline IS DISTINCT FROM after.payment_deadline
                 OR before.status IS DISTINCT FROM 'PENDING')) AS moved
    GROUP BY chunk;
    RETURN NULL;
END $$;

CREATE TRIGGER orders_wake_moved AFTER UPDATE ON orders
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION overdue_wake_moved();
