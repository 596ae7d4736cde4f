-- A page of overdue orders, the longest overdue first, past a deadline and an order. Orders whose closing failed keep their
-- back-off.
SELECT order_id, payment_deadline, pg_catalog.now() AS "now!", failure.order_id IS NOT NULL AS "failed!"
FROM orders LEFT JOIN closing_failures AS failure USING (order_id)
WHERE status = 'PENDING' AND payment_deadline <= pg_catalog.now() - pg_catalog.make_interval(secs => $1)
  AND (payment_deadline, order_id) > ($2, $3)
  AND (failure.next_try_at IS NULL OR failure.next_try_at <= pg_catalog.now())
ORDER BY payment_deadline, order_id LIMIT $4
