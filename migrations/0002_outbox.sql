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
                  ELSE coalesce(cardinality(user_ids), -1) = cardinality(order_ids) END),
    -- A row that the relay cannot read would keep it from all others.
    CONSTRAINT outbox_readable CHECK (
        array_ndims(order_ids) = 1 AND array_position(order_ids, NULL) IS NULL
        AND array_ndims(deadlines) = 1 AND array_position(deadlines, NULL) IS NULL
        AND (user_ids IS NULL OR (array_ndims(user_ids) = 1 AND array_position(user_ids, NULL) IS NULL))
        AND timestamptz '2000-01-01 00:00:00+00' <= ALL (deadlines)
        AND timestamptz '3000-01-01 00:00:00+00' > ALL (deadlines))
) WITH (
    -- The table is a queue: nearly every row is dead soon, so vacuum by count and not by share.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000
);

-- The functions name this schema in their bodies: whoever calls them may have another search_path. The triggers run with
-- the rights of the schema's owner, so a shop needs none on the outbox; hence the safe search_path.
DO $make$
DECLARE
    here text := quote_ident(current_schema());
BEGIN
    -- A row holds at most 500 orders: it bounds what the relay reads at once when a shop inserts a million orders.
    EXECUTE replace($$
        CREATE FUNCTION :schema.overdue_wake_inserted() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            INSERT INTO :schema.outbox (kind, order_ids, deadlines)
            SELECT 'wake', array_agg(order_id), array_agg(payment_deadline)
            FROM (SELECT order_id, payment_deadline, (row_number() OVER () - 1) / 500 AS chunk
                  FROM inserted WHERE status = 'PENDING') AS waiting
            GROUP BY chunk;
            RETURN NULL;
        END $body$
    $$, ':schema', here);

    -- A moved deadline, or an order that became PENDING (again), needs a wake; the old wake finds it not due and is
    -- harmless.
    EXECUTE replace($$
        CREATE FUNCTION :schema.overdue_wake_moved() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            INSERT INTO :schema.outbox (kind, order_ids, deadlines)
            SELECT 'wake', array_agg(order_id), array_agg(payment_deadline)
            FROM (SELECT after.order_id, after.payment_deadline, (row_number() OVER () - 1) / 500 AS chunk
                  FROM after_update AS after LEFT JOIN before_update AS before USING (order_id)
                  WHERE after.status = 'PENDING'
                    AND (before.payment_deadline IS DISTINCT FROM after.payment_deadline
                         OR before.status IS DISTINCT FROM 'PENDING')) AS moved
            GROUP BY chunk;
            RETURN NULL;
        END $body$
    $$, ':schema', here);

    -- The items of orders that the caller has just locked, added up per product. VOLATILE on purpose: the function then
    -- sees what was committed until now, where the calling statement sees only what was committed when it began. An item
    -- that was added in between would else be missed, and its stock lost.
    EXECUTE replace($$
        CREATE FUNCTION :schema.overdue_items_of(orders bigint[]) RETURNS TABLE (product_id bigint, quantity bigint)
        LANGUAGE plpgsql VOLATILE ROWS 100 AS $body$
        BEGIN
            RETURN QUERY
            SELECT i.product_id, sum(i.quantity)::bigint
            FROM :schema.order_items AS i WHERE i.order_id = ANY (orders)
            GROUP BY i.product_id;
        END $body$
    $$, ':schema', here);
END $make$;

CREATE TRIGGER orders_wake_inserted AFTER INSERT ON orders
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION overdue_wake_inserted();

CREATE TRIGGER orders_wake_moved AFTER UPDATE ON orders
    REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update
    FOR EACH STATEMENT EXECUTE FUNCTION overdue_wake_moved();
