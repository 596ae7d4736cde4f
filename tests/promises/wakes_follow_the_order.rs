//! Invariant 4, first half: every way by which an order comes to wait for a payment leads to a wake at its deadline:
//! bulk inserts, moved deadlines, orders that wait again, sessions with other settings.

use std::time::Duration;

use overdue::stats::Count;
use sqlx::{Connection, PgConnection};

use crate::harness::{World, eventually};

const SECOND: Duration = Duration::from_secs(1);
const ON_TIME: Duration = SECOND;

/// Moves a deadline to this long from now, as a shop does.
async fn move_to(world: &World, order: i64, from_now: Duration) {
    let moved = sqlx::query(
        "UPDATE orders SET payment_deadline = now() + make_interval(secs => $2) WHERE order_id = $1",
    );
    moved.bind(order).bind(from_now.as_secs_f64()).execute(&world.pool).await.expect("moved");
}

#[tokio::test]
async fn a_deadline_that_moves_while_the_wake_is_on_its_way_is_met() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let woken = pod.shared.stats.get(Count::Woken);
        let later = world.place(2 * SECOND, &[]).await;
        let sooner = world.place(3_600 * SECOND, &[]).await;
        let to_and_fro = world.place(3 * SECOND, &[]).await;
        eventually("the wakes are on their way", async || pod.shared.stats.get(Count::Woken) == woken + 3)
            .await;
        move_to(world, later, 4 * SECOND).await;
        move_to(world, sooner, 2 * SECOND).await;
        for seconds in [3_600, 1, 5, 2] {
            move_to(world, to_and_fro, seconds * SECOND).await;
        }
        for order in [sooner, to_and_fro, later] {
            let late = world.closed(order).await;
            assert!(late < ON_TIME, "order {order}: {late:?} late");
        }
        let by_command = world.place(2 * SECOND, &[]).await;
        let (code, _, error) = world.run(&["order", "extend", &by_command.to_string(), "--by", "1s"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert!(world.closed(by_command).await < ON_TIME);
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        assert_eq!(pod.shared.stats.get(Count::Failed), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn an_order_that_waits_again_is_woken_again() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let order = world.place(2 * SECOND, &[]).await;
        assert!(world.pay(order).await);
        // Its first wake comes and finds it paid.
        let witness = world.place(2 * SECOND, &[]).await;
        world.closed(witness).await;
        let reversed = "UPDATE orders SET status = 'PENDING', payment_deadline = now() + interval '1 second' WHERE order_id = $1";
        sqlx::query(reversed).bind(order).execute(&world.pool).await.expect("a payment that bounced");
        assert!(world.closed(order).await < ON_TIME);

        let order = world.place(2 * SECOND, &[]).await;
        assert!(world.pay(order).await);
        world.closed(world.place(2 * SECOND, &[]).await).await;
        // Its deadline has passed meanwhile: it is closed as soon as it waits.
        sqlx::query("UPDATE orders SET status = 'PENDING' WHERE order_id = $1").bind(order).execute(&world.pool).await.expect("bounced");
        world.closed(order).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_bulk_insert_makes_few_outbox_rows_and_every_order_of_it_is_closed() {
    World::with(async |world| {
        world.place_many(1_200, 2 * SECOND, 3 * SECOND, &[]).await;
        assert_eq!(world.number("SELECT count(*) FROM outbox").await, 3);
        assert_eq!(world.number("SELECT sum(cardinality(order_ids))::bigint FROM outbox").await, 1_200);
        let pod = world.pod(&[]);
        world.all_settled().await;
        assert_eq!(world.statuses().await["CLOSED"], 1_200);
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        pod.stop().await;

        // Rows that need no wake make none.
        world.assert_outbox_has_only("order.closed").await;
        world.sql("INSERT INTO orders (user_id, status, payment_deadline) VALUES (1, 'PAID', now())").await;
        world.sql("UPDATE orders SET updated_at = now()").await;
        world.assert_outbox_has_only("order.closed").await;
    })
    .await;
}

#[tokio::test]
async fn a_shop_with_another_search_path_makes_the_same_wakes() {
    World::with(async |world| {
        let pod = world.pod(&[]);
        world.ready().await;
        let mut shop = PgConnection::connect(&world.database_url).await.expect("a session");
        sqlx::query("SELECT set_config('search_path', 'pg_temp', false)").execute(&mut shop).await.expect("set");
        let insert = "INSERT INTO public.orders (user_id, payment_deadline) VALUES (1, now() + interval '1 second') RETURNING order_id";
        let order: i64 = sqlx::query_scalar(insert).fetch_one(&mut shop).await.expect("placed");
        assert!(world.closed(order).await < ON_TIME);
        let update = "UPDATE public.orders SET payment_deadline = now() + interval '1 second' WHERE order_id = $1";
        let order = world.place(3_600 * SECOND, &[]).await;
        sqlx::query(update).bind(order).execute(&mut shop).await.expect("moved");
        assert!(world.closed(order).await < ON_TIME);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_schema_of_its_own_works_through_the_urls_search_path() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA berlin").await;
        let url = format!("{}?options=-c%20search_path%3Dberlin", world.database_url);
        let (code, _, error) = world.run(&["migrate", "--database-url", &url]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let pod = world.pod(&[("database_url", &url), ("prefix", "berlin.")]);
        // Placed by a session that knows nothing of that schema.
        world.sql("INSERT INTO berlin.orders (user_id, payment_deadline) VALUES (1, now() + interval '1 second')").await;
        eventually("closed", async || world.number("SELECT count(*) FROM berlin.orders WHERE status = 'CLOSED'").await == 1).await;
        assert_eq!(pod.shared.stats.get(Count::Swept), 0);
        assert_eq!(world.number("SELECT count(*) FROM public.outbox").await, 0);
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_shop_puts_before_pg_catalog_does_not_run_with_the_rights_of_the_triggers() {
    World::with(async |world| {
        let names = ["=", "<>"].map(|name| format!("OPERATOR evil.{name} (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.alarm)"));
        world
            .sql(&format!(
                "CREATE SCHEMA evil;
                 CREATE FUNCTION evil.alarm(text, text) RETURNS boolean LANGUAGE plpgsql AS
                     $$ BEGIN RAISE EXCEPTION 'an operator of the shop''s own'; END $$;
                 CREATE FUNCTION evil.cardinality(bigint[]) RETURNS int LANGUAGE plpgsql AS
                     $$ BEGIN RAISE EXCEPTION 'a function of the shop''s own'; END $$;
                 CREATE {}; CREATE {}",
                names[0], names[1]
            ))
            .await;
        world
            .sql(
                "SET search_path = evil, pg_catalog;
                 INSERT INTO public.orders (order_id, user_id, payment_deadline) VALUES (1, 1, now() + interval '1 h');
                 UPDATE public.orders SET payment_deadline = now() + interval '2 h';
                 RESET search_path",
            )
            .await;
        assert_eq!(world.number("SELECT count(*) FROM outbox WHERE order_ids = '{1}'").await, 2);
    })
    .await;
}
