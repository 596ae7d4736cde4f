//! Rights: the documented roles suffice for an order's whole life, and no role gains anything by Overdue's functions.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::harness::{Roles, eventually, run_as as run};

/// Checks that a statement is refused for want of a right.
async fn denied(session: &mut PgConnection, statement: &str) {
    let error = run(session, statement).await.expect_err(statement);
    let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
}

#[tokio::test]
async fn an_orders_whole_life_runs_with_the_documented_roles() {
    Roles::with(async |roles| {
        let world = roles.world;
        roles.migrate().await;
        let pod_url = roles.url_of("overdue_pod");
        let (code, _, error) = world.run(&["migrate", "--database-url", &pod_url]).await;
        assert!(code == 1 && error.contains("migrate as the owner"), "{error}");
        let (code, _, error) = world.run(&["run", "--database-url", &pod_url]).await;
        assert!(code == 1 && error.contains("GRANT SELECT ON"), "{error}");
        roles.grant().await;
        assert_eq!(roles.lacking().await, [""; 0]);

        let mut shop = roles.connect("overdue_shop").await;
        run(&mut shop, "INSERT INTO inventory VALUES (1, 100)").await.expect("stocked");
        let pod = world.pod(&[("database_url", &pod_url), ("sweep_every", "1s"), ("probe_every", "1s")]);
        world.declared().await;
        let mut events = world.subscribe(&["order.closed", "order.cancelled"]).await;
        for statement in [
            // Order 1, by the function, closed; edited before.
            "SELECT overdue_place(7, interval '2 seconds', '{1}', '{3}'); SELECT overdue_edit(1, 1, 5)",
            // Orders 2 to 4 by plain SQL: paid, cancelled, closed.
            "INSERT INTO orders (user_id, payment_deadline) SELECT 8, now() + interval '3 seconds' FROM generate_series(1, 3);
             INSERT INTO order_items VALUES (2, 1, 1), (3, 1, 1), (4, 1, 1);
             UPDATE inventory SET stock = stock - 3 WHERE product_id = 1",
            "UPDATE orders SET status = 'PAID' WHERE order_id = 2 AND status = 'PENDING'",
            "UPDATE orders SET status = 'CANCELLED' WHERE order_id = 3 AND status = 'PENDING';
             UPDATE inventory SET stock = stock + 1 WHERE product_id = 1",
            // Order 5, cancelled by the function.
            "SELECT overdue_place(7, interval '1 hour', '{1}', '{3}'); SELECT overdue_cancel(5)",
        ] {
            run(&mut shop, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        for order in [1, 4] {
            world.closed(order).await;
        }
        world.outbox_empty().await;
        for (order, status) in [(1, "CLOSED"), (2, "PAID"), (3, "CANCELLED"), (4, "CLOSED"), (5, "CANCELLED")] {
            assert_eq!(world.status(order).await, status, "order {order}");
        }
        world.assert_stock_conserved(100).await;
        let seen = events.all(world).await;
        assert_eq!(seen.len(), 4, "{seen:?}");
        eventually("probes are noted too", async || {
            world.number("SELECT count(*) FROM lane_probes WHERE returned_at IS NOT NULL").await > 0
        })
        .await;
        let mut reader = roles.connect("overdue_reader").await;
        run(&mut reader, "SELECT FROM orders, order_items, inventory, outbox, lane_probes, closing_failures, overdue_database")
            .await
            .expect("a reader reads");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn each_right_that_a_pod_lacks_is_named_with_its_grant() {
    Roles::with(async |roles| {
        roles.migrate().await;
        roles.grant().await;
        let pod = roles.named("overdue_pod");
        for (table, rights) in [
            ("orders", "SELECT, UPDATE"),
            ("order_items", "SELECT"),
            ("inventory", "SELECT, UPDATE"),
            ("outbox", "SELECT, INSERT, UPDATE, DELETE"),
            ("refused_events", "SELECT, INSERT, UPDATE, DELETE"),
            ("closing_failures", "SELECT, INSERT, UPDATE, DELETE"),
            ("lane_probes", "SELECT, INSERT, UPDATE, DELETE"),
            ("overdue_database", "SELECT, UPDATE"),
            ("overdue_migrations", "SELECT"),
        ] {
            for right in rights.split(", ") {
                roles.world.sql(&format!("REVOKE {right} ON {table} FROM {pod}")).await;
                let lacking = roles.lacking().await;
                let grant = format!("GRANT {right} ON TABLE \"public\".{table} TO");
                assert!(lacking.len() == 1 && lacking[0].contains(&grant), "{right} on {table}: {lacking:?}");
                roles.world.sql(&format!("GRANT {right} ON {table} TO {pod}")).await;
            }
        }
        roles.world.sql(&format!("REVOKE EXECUTE ON FUNCTION overdue_give_back(bigint[]) FROM {pod}")).await;
        let lacking = roles.lacking().await;
        assert!(lacking.len() == 1 && lacking[0].contains("GRANT EXECUTE ON FUNCTION"), "{lacking:?}");
        roles.grant().await;
        roles.world.sql(&format!("REVOKE SELECT ON SEQUENCE outbox_id_seq FROM {pod}")).await;
        let lacking = roles.lacking().await;
        assert!(lacking.len() == 1 && lacking[0].contains("GRANT SELECT ON SEQUENCE"), "{lacking:?}");
        roles.grant().await;
        // The grant that is named works.
        roles.world.sql(&format!("REVOKE USAGE ON SCHEMA public FROM {pod}, PUBLIC")).await;
        let lacking = roles.lacking().await;
        assert!(lacking.len() == 1 && lacking[0].contains("GRANT USAGE ON SCHEMA \"public\""), "{lacking:?}");
        roles.world.sql(&format!("GRANT USAGE ON SCHEMA public TO {pod}")).await;

        // Policies that would hide rows: refused, not closed without stock.
        for table in ["orders", "order_items", "inventory"] {
            roles.world.sql(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")).await;
            let (code, _, error) =
                roles.world.run(&["run", "--database-url", &roles.url_of("overdue_pod")]).await;
            assert!(code == 1 && error.contains(table) && error.contains("BYPASSRLS"), "{table}: {error}");
            roles.world.sql(&format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")).await;
        }
        assert_eq!(roles.lacking().await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn no_role_gains_anything_by_our_functions() {
    Roles::with(async |roles| {
        roles.migrate().await;
        roles.grant().await;
        // With default privileges, and with the documented grants: who may execute what.
        let open: Vec<String> = sqlx::query_scalar(
            "SELECT p.oid::regprocedure::text FROM pg_proc AS p
             WHERE pronamespace = 'public'::regnamespace AND (
                 EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
                 OR prosecdef AND prorettype <> 'trigger'::regtype OR proconfig IS NOT NULL
                 OR prosecdef AND EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee <> proowner))",
        )
        .fetch_all(&roles.world.pool)
        .await
        .expect("functions");
        assert_eq!(open, [""; 0], "open to PUBLIC, or with the owner's rights and callable");

        // A trigger of the attacker's own table would run our text with the owner's rights on the attacker's types.
        let nobody = format!("{}_nobody", roles.world.name);
        let pod = roles.connect("overdue_pod").await;
        let shop = roles.connect("overdue_shop").await;
        let stranger = PgConnection::connect(&roles.url(&nobody)).await.expect("a session");
        for mut attacker in [stranger, shop, pod] {
            run(
                &mut attacker,
                "CREATE TYPE pg_temp.evil AS (a int);
                 CREATE FUNCTION pg_temp.run(pg_temp.evil) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''ran as %'', current_user; END';
                 CREATE CAST (pg_temp.evil AS bigint) WITH FUNCTION pg_temp.run(pg_temp.evil) AS IMPLICIT;
                 CREATE TEMP TABLE mine (order_id pg_temp.evil, status text, payment_deadline timestamptz, user_id bigint, closed_at timestamptz)",
            )
            .await
            .expect("its own table");
            for (event, names, function) in [
                ("INSERT", "REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT", "overdue_orders_inserted"),
                ("UPDATE", "REFERENCING OLD TABLE AS before_update NEW TABLE AS after_update FOR EACH STATEMENT", "overdue_orders_updated"),
                ("DELETE", "FOR EACH ROW", "overdue_items_guarded"),
            ] {
                let trigger = format!("CREATE TRIGGER evil AFTER {event} ON mine {names} EXECUTE FUNCTION public.{function}()");
                denied(&mut attacker, &trigger).await;
            }
            denied(&mut attacker, "CREATE FUNCTION public.cardinality(bigint[]) RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
            denied(&mut attacker, "CREATE TRIGGER evil AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()").await;
            denied(&mut attacker, "ALTER TABLE public.orders DISABLE TRIGGER ALL").await;
        }

        // A type of the attacker's own, found before PostgreSQL's, in the body of a trigger that the attacker fires.
        let mut shop = roles.connect("overdue_shop").await;
        run(
            &mut shop,
            "CREATE FUNCTION pg_temp.spring() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran as %', current_user; END $$;
             CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.spring());
             CREATE DOMAIN pg_temp.int8 AS pg_catalog.int8 CHECK (pg_temp.spring());
             CREATE DOMAIN pg_temp.bool AS pg_catalog.bool CHECK (pg_temp.spring());
             INSERT INTO public.inventory VALUES (1, 10);
             INSERT INTO public.orders (user_id, payment_deadline) VALUES (1, now() + interval '1 hour');
             INSERT INTO public.order_items VALUES (1, 1, 1);
             UPDATE public.order_items SET quantity = 2;
             UPDATE public.orders SET payment_deadline = payment_deadline + interval '1 hour';
             UPDATE public.orders SET status = 'CANCELLED';
             DELETE FROM public.order_items",
        )
        .await
        .expect("nothing of the attacker's runs with the owner's rights");
    })
    .await;
}

#[tokio::test]
async fn each_role_can_do_its_own_work_and_no_other() {
    Roles::with(async |roles| {
        roles.migrate().await;
        roles.grant().await;
        roles.world.sql("INSERT INTO inventory VALUES (1, 10)").await;
        roles.world.sql("INSERT INTO orders (user_id, payment_deadline) VALUES (1, now())").await;
        let calls = [
            "SELECT overdue_place(1, interval '1 hour', '{1}', '{1}')",
            "SELECT overdue_cancel(1)",
            "SELECT overdue_edit(1, 1, 1)",
        ];
        let wake = "INSERT INTO outbox (kind, order_ids, deadlines) VALUES ('wake', '{1}', '{now}')";
        let mut reader = roles.connect("overdue_reader").await;
        for table in [
            "orders",
            "order_items",
            "inventory",
            "outbox",
            "refused_events",
            "closing_failures",
            "lane_probes",
            "overdue_database",
        ] {
            denied(&mut reader, &format!("INSERT INTO {table} DEFAULT VALUES")).await;
            denied(&mut reader, &format!("DELETE FROM {table}")).await;
            denied(&mut reader, &format!("TRUNCATE {table}")).await;
        }
        denied(&mut reader, "SELECT FROM orders FOR UPDATE").await;
        denied(&mut reader, "SELECT overdue_give_back('{1}')").await;
        for call in calls {
            denied(&mut reader, call).await;
        }
        let mut shop = roles.connect("overdue_shop").await;
        denied(&mut shop, wake).await;
        for table in [
            "outbox",
            "refused_events",
            "closing_failures",
            "lane_probes",
            "overdue_database",
            "overdue_migrations",
        ] {
            denied(&mut shop, &format!("SELECT FROM {table}")).await;
            denied(&mut shop, &format!("DELETE FROM {table}")).await;
        }
        let mut pod = roles.connect("overdue_pod").await;
        denied(&mut pod, "DELETE FROM orders").await;
        denied(&mut pod, "INSERT INTO orders (user_id, payment_deadline) VALUES (1, now())").await;
        denied(&mut pod, "UPDATE order_items SET quantity = 1").await;
        for call in calls {
            denied(&mut pod, call).await;
        }
        for mut session in [reader, shop, pod] {
            denied(&mut session, "CREATE TABLE public.more (a int)").await;
            denied(&mut session, "DROP TABLE public.outbox").await;
            session.close().await.expect("closed");
        }
        let mut nobody = PgConnection::connect(&roles.url(&format!("{}_nobody", roles.world.name)))
            .await
            .expect("a session");
        denied(&mut nobody, "SELECT FROM orders").await;
        denied(&mut nobody, "SELECT overdue_cancel(1)").await;
        let _ = tokio::time::timeout(Duration::from_secs(5), nobody.close()).await;
    })
    .await;
}
