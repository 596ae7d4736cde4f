//! Invariants 1 to 3, last line of defence: whoever writes to the tables, an impossible row is refused by name.

use std::collections::BTreeSet;

use crate::harness::World;

/// A constraint, and a statement that it must refuse. Order 1 is PENDING, order 2 CLOSED, product 1 has 10 pieces.
const FORBIDDEN: &[(&str, &str)] = &[
    ("inventory_product_id_positive", "INSERT INTO inventory VALUES (0, 1)"),
    ("inventory_stock_not_negative", "UPDATE inventory SET stock = stock - 11 WHERE product_id = 1"),
    ("inventory_stock_not_negative", "INSERT INTO inventory VALUES (7, -1)"),
    (
        "orders_order_id_positive",
        "INSERT INTO orders (order_id, user_id, payment_deadline) VALUES (0, 1, now())",
    ),
    ("orders_status_known", "UPDATE orders SET status = 'pending' WHERE order_id = 1"),
    ("orders_status_known", "INSERT INTO orders (user_id, status, payment_deadline) VALUES (1, '', now())"),
    ("orders_payment_deadline_sane", "INSERT INTO orders (user_id, payment_deadline) VALUES (1, 'infinity')"),
    (
        "orders_payment_deadline_sane",
        "INSERT INTO orders (user_id, payment_deadline) VALUES (1, '-infinity')",
    ),
    ("orders_payment_deadline_sane", "UPDATE orders SET payment_deadline = '20260-01-01' WHERE order_id = 1"),
    ("orders_payment_deadline_sane", "UPDATE orders SET payment_deadline = 'epoch' WHERE order_id = 1"),
    // Closing early, by whatever statement.
    (
        "orders_closed_not_before_deadline",
        "UPDATE orders SET status = 'CLOSED', closed_at = now() WHERE order_id = 1",
    ),
    (
        "orders_closed_not_before_deadline",
        "UPDATE orders SET payment_deadline = now() + interval '1 day' WHERE order_id = 2",
    ),
    // Closing without saying when; paying, reviving or cancelling what is closed.
    ("orders_closed_at_iff_closed", "UPDATE orders SET status = 'CLOSED' WHERE order_id = 1"),
    ("orders_closed_at_iff_closed", "UPDATE orders SET status = 'PAID' WHERE order_id = 2"),
    ("orders_closed_at_iff_closed", "UPDATE orders SET status = 'PENDING' WHERE order_id = 2"),
    ("orders_closed_at_iff_closed", "UPDATE orders SET closed_at = NULL WHERE order_id = 2"),
    ("orders_closed_at_iff_closed", "UPDATE orders SET closed_at = payment_deadline WHERE order_id = 1"),
    ("order_items_quantity_positive", "INSERT INTO order_items VALUES (1, 1, 0)"),
    ("order_items_quantity_positive", "INSERT INTO order_items VALUES (1, 1, -1)"),
    ("outbox_kind_known", "INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('sleep', '{1}', '{now}')"),
    ("outbox_not_empty", "INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('wake', '{}', '{}')"),
    (
        "outbox_one_deadline_per_order",
        "INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('wake', '{1,2}', '{now}')",
    ),
    (
        "outbox_one_user_per_event",
        "INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('order.closed', '{1}', '{now}')",
    ),
    (
        "outbox_one_user_per_event",
        "INSERT INTO outbox (kind, order_ids, deadlines, user_ids) VALUES ('order.closed', '{1}', '{now}', '{1,2}')",
    ),
    (
        "outbox_one_user_per_event",
        "INSERT INTO outbox (kind, order_ids, deadlines, user_ids) VALUES ('wake', '{1}', '{now}', '{1}')",
    ),
    (
        "refused_events_kind_known",
        "INSERT INTO refused_events VALUES (1, 1, 'wake', now(), now(), 1, 0, now(), '')",
    ),
    (
        "refused_events_attempts_not_negative",
        "INSERT INTO refused_events VALUES (1, 1, 'order.closed', now(), now(), 1, -1, now(), '')",
    ),
    (
        "refused_events_times_sane",
        "INSERT INTO refused_events VALUES (1, 1, 'order.closed', 'infinity', now(), 1, 0, now(), '')",
    ),
    (
        "refused_events_times_sane",
        "INSERT INTO refused_events VALUES (1, 1, 'order.closed', now(), 'infinity', 1, 0, now(), '')",
    ),
    (
        "refused_events_pkey",
        "INSERT INTO refused_events VALUES (1, 1, 'order.closed', now(), now(), 1, 0, now(), ''),
                                           (1, 1, 'order.closed', now(), now(), 1, 0, now(), '')",
    ),
    (
        "closing_failures_attempts_positive",
        "INSERT INTO closing_failures (order_id, attempts, code, reason, next_try_at) VALUES (1, 0, '', '', now())",
    ),
    (
        "closing_failures_pkey",
        "INSERT INTO closing_failures (order_id, attempts, code, reason, next_try_at)
         VALUES (1, 1, '', '', now()), (1, 1, '', '', now())",
    ),
    ("leases_pkey", "INSERT INTO leases VALUES ('relay', 'a', now(), now()), ('relay', 'b', now(), now())"),
    ("pods_pkey", "INSERT INTO pods VALUES ('a', '1', now(), now()), ('a', '2', now(), now())"),
    ("overdue_database_one_row", "INSERT INTO overdue_database (only_row) VALUES (false)"),
    ("overdue_database_pkey", "INSERT INTO overdue_database DEFAULT VALUES"),
    // Keys: an item of nothing, an order twice.
    ("order_items_order_id_fkey", "INSERT INTO order_items VALUES (99, 1, 1)"),
    ("order_items_product_id_fkey", "INSERT INTO order_items VALUES (1, 99, 1)"),
    ("order_items_order_id_fkey", "DELETE FROM orders WHERE order_id = 2"),
    ("orders_pkey", "INSERT INTO orders (order_id, user_id, payment_deadline) VALUES (1, 1, now())"),
    ("order_items_pkey", "INSERT INTO order_items VALUES (1, 1, 1), (1, 1, 1)"),
    ("inventory_pkey", "INSERT INTO inventory VALUES (1, 1)"),
    (
        "outbox_pkey",
        "INSERT INTO outbox (id, kind, order_ids, deadlines) OVERRIDING SYSTEM VALUE
                     SELECT id, kind, order_ids, deadlines FROM outbox LIMIT 1",
    ),
    ("lane_probes_due_iff_placed", "INSERT INTO lane_probes (queue, placed_at) VALUES ('q', now())"),
    (
        "lane_probes_due_after_placed",
        "INSERT INTO lane_probes (queue, placed_at, due_at) VALUES ('q', now(), now())",
    ),
    ("lane_probes_token_unique", "INSERT INTO lane_probes (queue, token) VALUES ('q', 't'), ('q', 't')"),
    (
        "lane_probes_pkey",
        "INSERT INTO lane_probes (number, queue) OVERRIDING SYSTEM VALUE VALUES (1, 'q'), (1, 'q')",
    ),
];

#[tokio::test]
async fn each_forbidden_row_is_refused_by_the_constraint_that_names_it() {
    World::with(async |world| {
        world.stock(1, 10).await;
        world.sql("INSERT INTO orders (user_id, payment_deadline) VALUES (1, now() + interval '1 day')").await;
        world.sql("INSERT INTO orders (user_id, payment_deadline) VALUES (1, now())").await;
        world.sql("INSERT INTO order_items VALUES (2, 1, 1)").await;
        world.sql("UPDATE orders SET status = 'CLOSED', closed_at = now() WHERE order_id = 2").await;
        for (constraint, statement) in FORBIDDEN {
            let refused = sqlx::query(*statement).execute(&world.pool).await.expect_err(statement);
            let named = refused.as_database_error().and_then(|error| error.constraint().map(str::to_owned));
            assert_eq!(named.as_deref(), Some(*constraint), "{statement}: {refused}");
        }

        let defined: Vec<String> = sqlx::query_scalar(
            "SELECT conname FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
             WHERE connamespace = 'public'::regnamespace AND relname <> 'overdue_migrations' AND contype <> 'n'",
        )
        .fetch_all(&world.pool)
        .await
        .expect("the constraints");
        let tried: BTreeSet<_> = FORBIDDEN.iter().map(|(constraint, _)| (*constraint).to_owned()).collect();
        assert_eq!(tried, defined.into_iter().collect(), "each constraint is tried, and each that is tried exists");
    })
    .await;
}
