//! Whatever defaults somebody sets on the database or the role, pods have the session settings that closing needs, or refuse
//! to start and name the setting.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use crate::harness::{Roles, World, eventually};

/// Defaults that would change what closing does.
const UNSUITABLE: [(&str, &str); 10] = [
    ("default_transaction_isolation", "'serializable'"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "off"),
    ("row_security", "on"),
    ("search_path", "elsewhere"),
    ("statement_timeout", "'1ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_session_timeout", "'1s'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
];

#[tokio::test]
async fn unsuitable_defaults_of_the_database_change_nothing() {
    World::with(async |world| {
        world.stock(1, 10).await;
        // A session from before keeps the old defaults: the shop of the test goes on with it.
        let mut shop = world.pool.acquire().await.expect("a session");
        for (setting, value) in UNSUITABLE {
            let alter = format!("ALTER DATABASE {} SET {setting} = {value}", world.name);
            sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut *shop).await.expect(setting);
        }
        let pod = world.pod(&[]);
        let place = "INSERT INTO orders (user_id, payment_deadline) VALUES (1, now() + interval '1 second');
                     INSERT INTO order_items VALUES (1, 1, 2)";
        sqlx::raw_sql(place).execute(&mut *shop).await.expect("placed");
        eventually("the order is closed and its stock given back", async || {
            let stock = sqlx::query_scalar("SELECT stock FROM inventory").fetch_one(&mut *shop).await;
            let stock: i64 = stock.expect("the stock");
            stock == 12
        })
        .await;

        let mut session = overdue::database::connect(&world.config(&[])).await.expect("connected");
        let settings: Vec<(String, String)> = sqlx::query_as(
            "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.unnest($1::text[]) AS name",
        )
        .bind(UNSUITABLE.map(|(name, _)| name.to_owned()))
        .fetch_all(&mut session)
        .await
        .expect("settings");
        for (name, value) in settings {
            let (_, unsuitable) = UNSUITABLE.iter().find(|(setting, _)| *setting == name).expect("asked for");
            assert_ne!(value, unsuitable.trim_matches('\''), "{name}");
        }
        session.close().await.expect("closed");
        pod.stop().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_plain_role_cannot_set_is_refused_with_its_name_and_the_remedy() {
    World::with(async |world| {
        let reset = |setting: &str| format!("ALTER DATABASE {} RESET {setting}", world.name);
        let mut refused = vec![("session_replication_role", "replica")];
        if world.number("SELECT current_setting('server_version_num')::bigint").await >= 170_000 {
            refused.push(("transaction_timeout", "5s"));
        }
        for (setting, value) in refused {
            world.sql(&format!("ALTER DATABASE {} SET {setting} = '{value}'", world.name)).await;
            for command in [&["run"][..], &["order", "show", "1"], &["sweep"]] {
                let (code, _, error) = world.run(command).await;
                assert_eq!(code, 1, "{command:?}: {error}");
                let named = [setting, &format!("`{value}`"), "ALTER ROLE", &format!("RESET {setting}")];
                assert!(named.iter().all(|part| error.contains(part)), "{command:?}: {error}");
            }
            world.sql(&reset(setting)).await;
        }
        let (code, _, error) = world.run(&["sweep"]).await;
        assert_eq!((code, error.as_str()), (0, ""), "nothing is in the way any more");
    })
    .await;
}

#[tokio::test]
async fn the_schema_setting_beats_every_other_search_path() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA berlin").await;
        world.sql(&format!("ALTER DATABASE {} SET search_path = public", world.name)).await;
        let (code, shown, error) = world.run(&["migrate", "--schema", "berlin"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        assert!(shown.contains("berlin"), "{shown}");
        let pod = world.pod(&[("schema", "berlin"), ("prefix", "berlin.")]);
        let insert = "INSERT INTO berlin.orders (user_id, payment_deadline) VALUES (1, now())";
        world.sql(insert).await;
        let public = world.place(Duration::ZERO, &[]).await;
        eventually("berlin's order is closed", async || {
            world.number("SELECT count(*) FROM berlin.orders WHERE status = 'CLOSED'").await == 1
        })
        .await;
        assert_eq!(world.status(public).await, "PENDING", "the other shop's");
        pod.stop().await;

        let empty = ["run", "--schema", "munich"];
        let (code, _, error) = world.run(&empty).await;
        assert!(
            code == 1 && error.contains("no schema munich") && error.contains("OVERDUE_SCHEMA"),
            "{error}"
        );
        world.sql("CREATE SCHEMA munich").await;
        let (code, _, error) = world.run(&empty).await;
        assert!(
            code == 1 && error.contains("overdue migrate") && error.contains("berlin, public"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn unsuitable_defaults_of_the_role_change_nothing_or_are_refused() {
    Roles::with(async |roles| {
        roles.migrate().await;
        roles.grant().await;
        let (pod, world) = (roles.user("overdue_pod"), roles.world);
        for (setting, value) in UNSUITABLE {
            world.sql(&format!("ALTER ROLE {pod} SET {setting} = {value}")).await;
        }
        assert_eq!(roles.lacking().await, [""; 0]);
        let url = roles.url_of("overdue_pod");
        let sweep = ["sweep", "--database-url", &url];
        let (code, _, error) = world.run(&sweep).await;
        assert_eq!((code, error.as_str()), (0, ""));

        world.sql(&format!("ALTER ROLE {pod} SET session_replication_role = replica")).await;
        for command in [&sweep[..], &["run", "--database-url", &url]] {
            let (code, _, error) = world.run(command).await;
            assert!(code == 1 && error.contains("session_replication_role is `replica`"), "{error}");
            assert!(error.contains(&format!("ALTER ROLE {pod} RESET session_replication_role")), "{error}");
        }
    })
    .await;
}
