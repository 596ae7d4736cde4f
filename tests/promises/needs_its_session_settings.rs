//! Whatever defaults somebody sets on the database or the role, pods have the session settings that closing needs, or refuse
//! to start and name the setting.

use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection};

use crate::harness::{Roles, World, eventually, with_path};

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

        let mut session = overdue::database::connect(&world.config(&[]), &[]).await.expect("connected");
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

/// A pooler that drops start-up parameters, as PgBouncer with `ignore_startup_parameters = options` does: here, a role whose
/// URL goes through one. It runs where PGBOUNCER names the program.
#[tokio::test]
async fn a_session_without_our_settings_is_refused() {
    World::with(async |world| {
        let Some(pooler) = std::env::var("PGBOUNCER").ok().filter(|path| !path.is_empty()) else {
            return;
        };
        for (ignored, reason) in [
            ("", "unsupported startup parameter"),
            ("extra_float_digits,options", "drops start-up parameters"),
        ] {
            let pooler = Pooler::start(&pooler, &world.database_url, ignored).await;
            let url = with_path(&pooler.url, &world.name);
            for command in [&["run"][..], &["order", "show", "1"], &["migrate"]] {
                let arguments = [command, &["--database-url", &url]].concat();
                let (code, _, error) = world.run(&arguments).await;
                assert!(code == 1 && error.contains(reason), "{ignored} {command:?}: {error}");
                assert!(error.contains("directly") || command == ["migrate"], "{error}");
            }
            // Nothing was set on a connection that others get.
            if !ignored.is_empty() {
                let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.expect("the pooler");
                let path: String = sqlx::query_scalar("SHOW search_path")
                    .persistent(false)
                    .fetch_one(&pool)
                    .await
                    .expect("a path");
                assert_eq!(path, "\"$user\", public");
                pool.close().await;
            }
        }
    })
    .await;
}

/// A PgBouncer of the test's own; it ends with the test.
struct Pooler {
    url: String,
    _process: tokio::process::Child,
    folder: std::path::PathBuf,
}

impl Pooler {
    async fn start(binary: &str, database_url: &str, ignored: &str) -> Self {
        let target = url::Url::parse(database_url).expect("a URL");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
        let folder = std::env::temp_dir().join(format!("overdue-pooler-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = plain\nauth_file = {}/users\npool_mode = session\n{}\n",
            target.host_str().expect("a host"),
            target.port().unwrap_or(5432),
            folder.display(),
            if ignored.is_empty() { String::new() } else { format!("ignore_startup_parameters = {ignored}") },
        );
        std::fs::write(folder.join("ini"), settings).expect("written");
        let password = target.password().unwrap_or_default();
        std::fs::write(folder.join("users"), format!("\"{}\" \"{password}\"\n", target.username()))
            .expect("written");
        let mut command = tokio::process::Command::new(binary);
        if std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
            command.uid(65534); // it refuses to run as root
        }
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        command.arg(folder.join("ini")).stdout(std::process::Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("PgBouncer starts");
        eventually("PgBouncer listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let mut url = target;
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(port)).expect("a port");
        Self { url: url.into(), _process: process, folder }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
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
