//! Through a pooler in any mode, pods work as they do without one, and leave nothing in the sessions that other programs get.
//!
//! Where OVERDUE_TEST_POOLER names a pooler, the pods of all tests use it: `make poolers` runs many promises so. Two of those here need it.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};

use crate::harness::{World, eventually};

/// Sessions of the server that PgBouncer keeps for a user and a database, by default.
const SESSIONS: usize = 20;

fn through_a_pooler(world: &World) -> bool {
    world.pods_database_url() != world.database_url
}

/// A shop that places and cancels orders, while pods close what is left. Returns when all is settled and told.
async fn a_busy_shop(world: &World, settings: &[(&str, &str)]) {
    world.stock(5, 1_000).await;
    let pods = [world.pod(settings), world.pod(settings)];
    world.ready().await;
    let mut events = world.subscribe(&["order.closed"]).await;
    world.place_many(280, Duration::from_secs(1), Duration::from_secs(3), &[(1, 1), (2, 2)]).await;
    for _ in 0..20 {
        let order = world.place(Duration::from_secs(600), &[(1, 1)]).await;
        overdue::orders::cancel(&world.database(), order).await.expect("cancelled");
    }
    world.all_settled().await;
    assert_eq!(events.all(world).await.len(), 280);
    world.assert_stock_conserved(1_000).await;
    for pod in pods {
        pod.stop().await;
    }
}

/// Every setting of a session but its name, and how many statements are prepared in it.
async fn session(connection: &mut PgConnection) -> (String, i64) {
    // With its settings, which a session has once it has run a function, such as a trigger.
    connection.execute("DO $$ BEGIN END $$").await.expect("plpgsql is loaded");
    let row = sqlx::raw_sql(
        "SELECT (SELECT string_agg(name || ' = ' || setting, E'\n' ORDER BY name) FROM pg_settings
                 WHERE name <> 'application_name'),
                (SELECT count(*) FROM pg_prepared_statements)",
    );
    let row = row.fetch_one(connection).await.expect("the settings");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn other_programs_find_the_poolers_sessions_as_they_were() {
    World::with(async |world| {
        a_busy_shop(world, &[]).await;
        if !through_a_pooler(world) {
            return;
        }
        let connect = async |url: &str| {
            let options: PgConnectOptions = url.parse().expect("a URL");
            options.extra_float_digits(None).connect().await.expect("a session")
        };
        let (fresh, none) = session(&mut connect(&world.database_url).await).await;
        assert_eq!(none, 0);
        // All at once, and each in a transaction: so each has another session of the server, and every one is seen.
        let mut others = Vec::new();
        for _ in 0..SESSIONS {
            let mut other = connect(&world.pods_database_url()).await;
            other.execute("BEGIN").await.expect("a transaction");
            let (settings, prepared) = session(&mut other).await;
            let differing: Vec<_> = settings.lines().filter(|line| !fresh.contains(*line)).collect();
            assert_eq!(differing, [""; 0]);
            assert_eq!(prepared, 0, "prepared statements");
            others.push(other);
        }
        for other in others {
            other.close().await.expect("closed");
        }
    })
    .await;
}

/// The way through a pooler is right without one, too, so a pooler that passes start-up parameters on can be named.
#[tokio::test]
async fn a_pooler_that_cannot_be_recognized_can_be_named() {
    World::with(async |world| {
        let always = ("database_pooler", "always");
        a_busy_shop(world, &[always]).await;
        let database = overdue::database::pool(&world.config(&[always])).expect("a pool");
        let mut session = database.acquire().await.expect("a session");
        let prepared = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements");
        let prepared: i64 = prepared.fetch_one(&mut session).await.expect("a number");
        assert_eq!(prepared, 0);
        // Nothing was set, either: the session is one of the role's.
        let mut plain = sqlx::query_scalar("SELECT pg_catalog.current_setting('lock_timeout')");
        let within: String = plain.fetch_one(&mut session).await.expect("a setting");
        assert_eq!(within, "400ms");
        let mut transaction = session.begin("SET LOCAL lock_timeout = '7s'").await.expect("a transaction");
        plain = sqlx::query_scalar("SELECT pg_catalog.current_setting('lock_timeout')");
        let within: String = plain.fetch_one(&mut transaction).await.expect("a setting");
        assert_eq!(within, "7s");
        transaction.commit().await.expect("committed");
        // A statement that fails ends its transaction at once, and the session goes on.
        let failed = sqlx::query("SELECT 1 / 0").execute(&mut session).await;
        assert!(failed.is_err());
        eventually("no transaction is open", async || {
            world.number("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()")
                .await
                == 0
        })
        .await;
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut session).await.expect("it goes on");
        assert_eq!(one, 1);
    })
    .await;
}

#[tokio::test]
async fn only_migrate_needs_the_server_itself_and_says_so() {
    World::with(async |world| {
        if !through_a_pooler(world) {
            return;
        }
        let order = world.place(Duration::from_secs(600), &[]).await.to_string();
        for command in [&["order", "show", order.as_str()][..], &["sweep"], &["announce"]] {
            let (code, _, error) = world.run(command).await;
            assert_eq!((code, error.as_str()), (0, ""), "{command:?}");
        }
        world
            .fails(
                &["migrate"],
                &["pooler", "name PostgreSQL itself", "DATABASE_URL"],
                &["PostgreSQL runs there"],
            )
            .await;
        world.fails(&["bench", "place"], &["pooler", "name PostgreSQL itself"], &[]).await;
    })
    .await;
}
