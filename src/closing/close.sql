-- Closes, of the orders in $1, those that are PENDING and due, gives their stock back and records the event: all of it
-- or nothing. This statement alone decides; now() is the database's clock at its start.
WITH slot AS MATERIALIZED (
    -- Large batches ($3: this is one) share products. While $2 of them, over all pods, are at work, this one does nothing and is
    -- retried soon: waiting here, it would keep the database from removing the products' old versions. Slot n has the key $4 + n.
    SELECT NOT $3::boolean
           OR EXISTS (SELECT FROM pg_catalog.generate_series(1, $2::int) AS n
                      WHERE pg_catalog.pg_try_advisory_xact_lock($4::int + n, 'outbox'::regclass::oid::int4)) AS ours
), due AS MATERIALIZED (
    -- A row locked by another transaction (a payment, another pod) is left for its next look.
    -- FOR UPDATE, not NO KEY: it also skips an order whose items are being added by an open transaction.
    -- Looked up by primary key alone: with stale statistics, which say that no order is due, the planner would scan the whole
    -- burst for each batch. The || hides from it that the condition is that of the index of waiting orders.
    SELECT order_id
    FROM orders
    WHERE (SELECT ours FROM slot) AND order_id = ANY ($1) AND status || '' = 'PENDING'
          AND payment_deadline <= pg_catalog.now()
    ORDER BY order_id
    FOR UPDATE SKIP LOCKED
), picked AS (
    -- Those of them that are not CLOSED afterwards were kept from it by a trigger that returned NULL or wrote another status.
    SELECT pg_catalog.array_agg(order_id) AS order_ids FROM due
), became AS (
    UPDATE orders
    SET status = 'CLOSED', closed_at = pg_catalog.now(), updated_at = pg_catalog.now()
    FROM due
    WHERE orders.order_id = due.order_id
    RETURNING orders.order_id, orders.payment_deadline, orders.user_id, orders.status
), event AS (
    -- An event is recorded only if the row is CLOSED now: a trigger of the shop's may have made it something else.
    INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
    SELECT 'order.closed', pg_catalog.array_agg(order_id), pg_catalog.array_agg(payment_deadline), pg_catalog.array_agg(user_id)
    FROM became
    WHERE status = 'CLOSED'
    HAVING pg_catalog.count(*) > 0
    RETURNING order_ids, deadlines
), others AS (
    -- Orders that need no second look: they were paid, cancelled or closed, or are due later, when this statement began. A
    -- later change records a new wake.
    SELECT pg_catalog.array_agg(order_id) AS order_ids,
           pg_catalog.array_agg(CASE status WHEN 'PENDING' THEN payment_deadline END) AS deadlines
    FROM orders
    WHERE (SELECT ours FROM slot)
      AND coalesce((SELECT pg_catalog.cardinality(order_ids) FROM picked), 0) < pg_catalog.cardinality($1)
      AND order_id = ANY ($1) AND (status <> 'PENDING' OR payment_deadline > pg_catalog.now())
)
-- Each step takes what the one before returns, so the products, which other batches wait for, come last: see overdue_give_back
-- in migrations/functions.sql. Arrays: a row for each order would cost more than the rest of the answer.
SELECT coalesce(event.order_ids, '{}') AS "order_ids!", coalesce(event.deadlines, '{}') AS "deadlines!",
       coalesce(others.order_ids, '{}') AS "others!", coalesce(others.deadlines, '{}') AS "others_deadlines!: Vec<Option<OffsetDateTime>>",
       CASE WHEN pg_catalog.cardinality(picked.order_ids) > coalesce(pg_catalog.cardinality(event.order_ids), 0)
            THEN picked.order_ids ELSE '{}' END AS "picked!",
       overdue_give_back(event.order_ids) AS products, slot.ours AS "ours!", pg_catalog.clock_timestamp() AS "answered_at!"
FROM others CROSS JOIN picked CROSS JOIN slot LEFT JOIN event ON true
