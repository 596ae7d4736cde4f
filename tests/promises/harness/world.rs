//! A world of one's own for each test: a database and a vhost, made before it and removed after it.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use lapin::{Channel, Connection, ConnectionProperties};
use overdue::config::Config;
use overdue::config::settings::Raw;
use overdue::topology::Names;
use overdue_testkit::broker::Broker;
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};
use tokio::sync::OnceCell;
use url::Url;

use super::management::Management;
use super::users::PARTS;
use super::waiting::eventually;

/// The lanes of the tests: few, because each is a quorum queue to be made for each test.
pub const LANES: &str = "1s,2s,5s";

pub struct World {
    /// Name of database and vhost.
    pub name: String,
    pub database_url: String,
    pub amqp_url: String,
    pub pool: PgPool,
    pub management: Management,
    pub names: Names,
}

static COUNT: AtomicU32 = AtomicU32::new(0);
/// When this run began, and its process: part of every name.
static RUN: LazyLock<String> = LazyLock::new(|| format!("{}_{}", now(), std::process::id()));
/// Made once a run and copied for each test: copying is faster than migrating.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// On a busy machine a wake may be later than the sweep waits by default, and a test is about one of the two.
pub const WAKES_COME_LATE: (&str, &str) = ("sweep_grace", "10s");

impl World {
    /// Runs a test in a new world, and removes the world however the test ends.
    pub async fn with(test: impl AsyncFnOnce(&World)) {
        let world = World::new().await;
        let outcome = AssertUnwindSafe(test(&world)).catch_unwind().await;
        let logs = world.logs();
        world.remove().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        let _ = std::fs::remove_dir_all(logs); // there is none when the test started no process
    }

    async fn new() -> Self {
        // A test that fails shows what the pods in its process logged.
        let _ = tracing_subscriber::fmt().with_env_filter("overdue=info").with_test_writer().try_init();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("overdue_test_{}_{number}", *RUN);
        let (server, template) = (server(), TEMPLATE.get_or_init(template).await);
        execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let management = Management::from_env();
        management.put(&["vhosts", &name], json!({})).await;
        let amqp = env("AMQP_URL");
        // The node that is asked has the vhost at once; its permissions are those of the user who made it.
        let user = Url::parse(&amqp).expect("AMQP_URL").username().to_owned();
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        management.put(&["permissions", &name, &user], all).await;
        let database_url = with_path(&server, &name);
        let pool = PgPoolOptions::new().max_connections(10).connect_lazy(&database_url).expect("a pool");
        Self {
            amqp_url: with_path(&amqp, &name),
            database_url,
            pool,
            management,
            names: Names::new(""),
            name,
        }
    }

    async fn remove(self) {
        self.management.delete(&["vhosts", &self.name]).await;
        self.management.delete(&["users", &format!("{}_limited", self.name)]).await;
        for prefix in [self.prefix(), self.second_prefix()] {
            for part in PARTS {
                self.management.delete(&["users", &Names::new(&prefix).user(part)]).await;
            }
        }
        self.pool.close().await;
        execute(&server(), &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }

    /// Where pods find the database: through the pooler at the address in `OVERDUE_TEST_POOLER`, if there is one.
    pub fn pods_database_url(&self) -> String {
        match std::env::var("OVERDUE_TEST_POOLER") {
            Ok(address) if !address.is_empty() => {
                let mut url = Url::parse(&self.database_url).expect("a URL");
                let (host, port) = address.rsplit_once(':').expect("host and port");
                url.set_host(Some(host)).expect("a host");
                url.set_port(port.parse().ok()).expect("a port");
                url.into()
            }
            _ => self.database_url.clone(),
        }
    }

    /// The database as a pod uses it.
    pub fn database(&self) -> overdue::database::Database {
        overdue::database::pool(&self.config(&[])).expect("a pool")
    }

    /// A configuration for this world, with some settings changed.
    pub fn config(&self, overrides: &[(&str, &str)]) -> Config {
        let database_url = self.pods_database_url();
        let mut all = vec![
            ("database_url", database_url.as_str()),
            ("amqp_url", self.amqp_url.as_str()),
            ("lanes", LANES),
            WAKES_COME_LATE,
        ];
        let management = env("OVERDUE_MANAGEMENT_URL");
        all.push(("management_url", &management));
        all.extend_from_slice(overrides);
        Config::from_raw(&Raw::with(&all).expect("settings")).expect("a configuration")
    }

    /// A connection of the test's own.
    pub async fn amqp(&self) -> Connection {
        Connection::connect(&self.amqp_url, ConnectionProperties::default()).await.expect("a connection")
    }

    /// A channel of a connection of the test's own, which lives as long as the channel is used.
    pub async fn channel(&self) -> (Connection, Channel) {
        let connection = self.amqp().await;
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// Declares the topology by the command.
    pub async fn declare(&self) {
        let (code, _, error) = self.run(&["topology", "declare"]).await;
        assert_eq!((code, error.as_str()), (0, ""));
    }

    /// The kit's broker in this world, with a connection of its own that ends with it.
    pub fn broker(&self) -> Broker {
        Broker::new(std::slice::from_ref(&self.amqp_url), "")
    }

    /// Messages in a queue now, by asking the queue itself.
    pub async fn depth(&self, queue: &str) -> u32 {
        self.broker().depth(queue).await.expect("the queue")
    }

    /// Who consumes a queue now.
    pub async fn consumers(&self, queue: &str) -> u32 {
        self.broker().consumers(queue).await.expect("the queue")
    }

    /// Waits until so many pods take from a queue.
    pub async fn consumed(&self, queue: &str, by: u32) {
        self.declared().await;
        eventually(&format!("{queue} has {by} consumers"), async || self.consumers(queue).await == by).await;
    }

    /// The pod that leads a role, by its name in the table of leases.
    pub async fn leader(&self, role: &str) -> Option<String> {
        let holder = "SELECT holder FROM leases WHERE role = $1 AND expires_at > clock_timestamp()";
        sqlx::query_scalar(holder).bind(role).fetch_optional(&self.pool).await.expect("an answer")
    }
}

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

fn server() -> String {
    env("DATABASE_URL")
}

/// A URL with another path (database or vhost).
pub fn with_path(url: &str, path: &str) -> String {
    let mut url = Url::parse(url).expect("a URL");
    url.set_path(path);
    url.into()
}

/// Nothing listens on the discard port.
pub const NOBODY: &str = "127.0.0.1:9";

/// A URL that leads to another address, with another scheme.
pub fn at(url: &str, scheme: &str, address: &str) -> String {
    let url = Url::parse(url).expect("a URL");
    format!("{scheme}://{}:secret@{address}{}", url.username(), url.path())
}

/// Host and port of a URL.
pub fn address(url: &str) -> String {
    let url = Url::parse(url).expect("a URL");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

async fn execute(server: &str, statement: &str) {
    let pool =
        PgPoolOptions::new().max_connections(1).connect(server).await.expect("the database of DATABASE_URL");
    (&pool)
        .execute(sqlx::AssertSqlSafe(statement))
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
    pool.close().await;
}

/// Whether a database or vhost is of a run that must have ended, however it did. A run that began lately may still need
/// it: several may share the services.
fn left_behind(name: &str) -> bool {
    let began = name.strip_prefix("overdue_template_").or_else(|| name.strip_prefix("overdue_test_"));
    let began = began.and_then(|began| began.split('_').next()?.parse().ok());
    began.is_some_and(|began: u64| now() > began + 30 * 60)
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.expect("a clock after 1970").as_secs()
}

/// A migrated database; what earlier runs left behind is removed with it.
async fn template() -> String {
    let server = server();
    let pool =
        PgPoolOptions::new().max_connections(1).connect(&server).await.expect("the database of DATABASE_URL");
    let databases = sqlx::query_scalar::<_, String>("SELECT datname FROM pg_database").fetch_all(&pool).await;
    for old in databases.expect("a list of databases").iter().filter(|name| left_behind(name)) {
        // Another run may be removing it too.
        let _ =
            (&pool).execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {old} WITH (FORCE)"))).await;
    }
    let management = Management::from_env();
    let vhosts = management.get(&["vhosts"]).await;
    let names = vhosts.as_array().into_iter().flatten().filter_map(|vhost| vhost["name"].as_str());
    for old in names.filter(|name| left_behind(name)) {
        management.delete(&["vhosts", old]).await;
    }
    pool.close().await;
    let name = format!("overdue_template_{}", *RUN);
    execute(&server, &format!("CREATE DATABASE {name}")).await;
    let migrating = PgPoolOptions::new()
        .max_connections(1)
        .connect(&with_path(&server, &name))
        .await
        .expect("the template");
    overdue::database::migrate(&migrating.connect_options()).await.expect("migrated");
    migrating.close().await;
    name
}

impl World {
    /// Waits until a pod has declared the topology.
    pub async fn declared(&self) {
        eventually("the topology is declared", async || {
            let bindings = self.management.get(&["bindings", &self.name]).await;
            let bound = |queue: &str| {
                bindings
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|b| b["destination"] == queue && b["source"] == self.names.exchange())
            };
            // The intake queue comes last.
            bound(&self.names.intake())
        })
        .await;
    }
}
