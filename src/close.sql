-- Closes, of the orders in $1, those that are PENDING and due, gives their stock back and records the event: all of it
-- or nothing. This statement alone decides; now() is the database's clock at its start.
WITH due AS MATERIALIZED (
    -- A row that somebody else has locked (a payment on its way, another pod) is left to its next look.
    -- FOR UPDATE, not NO KEY: it also passes over an order whose items are being added by an open transaction.
    -- By the primary key alone: the index of waiting orders looks cheaper to a planner whose statistics say that none is due,
    -- and then a burst is searched whole for each batch. It cannot see that the condition with || is the index's own.
    SELECT order_id, user_id, payment_deadline
    FROM orders
    WHERE order_id = ANY ($1) AND status || '' = 'PENDING' AND payment_deadline <= now()
    ORDER BY order_id
    FOR UPDATE SKIP LOCKED
), closed AS (
    UPDATE orders
    SET status = 'CLOSED', closed_at = now(), updated_at = now()
    FROM due
    WHERE orders.order_id = due.order_id
), given_back AS MATERIALIZED (
    -- After all of them are locked, and with what was committed until then: see migrations/0002_outbox.sql.
    SELECT product_id, quantity
    FROM overdue_items_of((SELECT array_agg(order_id) FROM due))
), locked AS MATERIALIZED (
    -- In product order, so that two batches with the same products wait for each other and never deadlock. NO KEY: an
    -- order that is being placed holds a key-share lock on its products, which must neither wait for us nor we for it.
    SELECT inventory.product_id, given_back.quantity
    FROM inventory JOIN given_back USING (product_id)
    ORDER BY inventory.product_id
    FOR NO KEY UPDATE OF inventory
), restocked AS (
    UPDATE inventory
    SET stock = stock + locked.quantity
    FROM locked
    WHERE inventory.product_id = locked.product_id
), event AS (
    INSERT INTO outbox (kind, order_ids, deadlines, user_ids)
    SELECT 'order.closed', array_agg(order_id), array_agg(payment_deadline), array_agg(user_id)
    FROM due
    HAVING count(*) > 0
)
-- Arrays: a row for each order would cost more than the rest of the answer.
SELECT coalesce(array_agg(order_id), '{}') AS "order_ids!", coalesce(array_agg(payment_deadline), '{}') AS "deadlines!",
       clock_timestamp() AS "answered_at!"
FROM due
