//! The stage: the demo's own database and vhost, and users with exactly the rights that they have in production.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overdue_testkit::broker::Broker;
use overdue_testkit::deployment::Deployment;
use overdue_testkit::management::Management;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::{Instant, sleep};

use crate::addresses::{Addresses, DATABASE, Login, VHOST};
use crate::management::explained;
use crate::{During, Result};

/// The rights are read from the file that production imports, so that the demo also shows that they suffice.
const DEFINITIONS: &str = include_str!("../../rabbitmq/definitions.json");

/// Creates the database, vhost and users, connects, runs commands, and removes everything again.
#[derive(Debug)]
pub struct Stage {
    pub at: Addresses,
    management: Management,
}

impl Stage {
    /// Reads the addresses; connects to nothing.
    pub fn from_env() -> Result<Self> {
        let at = Addresses::from_env()?;
        let Login { user, password } = &at.administrator;
        let management = Management::new(at.management.clone(), user, password);
        Ok(Self { at, management })
    }

    /// Builds the stage, and removes first what an earlier demo left.
    pub async fn build(&self) -> Result<()> {
        let mut server = self.drop_database().await?;
        let made = sqlx::query("CREATE DATABASE overdue_demo").execute(&mut server).await;
        made.during(format!("making the database {DATABASE} (the user in DATABASE_URL needs CREATEDB)"))?;
        self.overdue(&["migrate"]).await?;
        eprintln!("demo: database {DATABASE}: made, schema migrated");
        self.make_vhost().await?;
        // By the administrator: the service's user may not configure.
        let nodes: Vec<_> = self.at.amqp(&self.at.crew).iter().map(ToString::to_string).collect();
        self.overdue(&["topology", "declare", "--amqp-url", &nodes.join(",")]).await?;
        // RabbitMQ 4 accepts a topic permission only for an exchange that exists.
        self.grant("topic_permissions", "topic-permissions").await?;
        eprintln!(
            "demo: vhost {VHOST}: made, topology declared, users with the rights of rabbitmq/definitions.json"
        );
        Ok(())
    }

    /// Removes what [`Stage::build`] made.
    pub async fn strike(&self) -> Result<()> {
        let dropped = self.drop_database().await;
        self.management.delete(&["vhosts", VHOST]).await.map_err(explained)?;
        for login in self.users() {
            self.management.delete(&["users", &login.user]).await.map_err(explained)?;
        }
        dropped.map(drop)
    }

    fn users(&self) -> [&Login; 3] {
        [&self.at.service, &self.at.publisher, &self.at.operator]
    }

    async fn drop_database(&self) -> Result<PgConnection> {
        let mut server =
            PgConnection::connect(self.at.server.as_str()).await.during("connecting to DATABASE_URL")?;
        // FORCE: an open psql session must not make this fail.
        let dropped =
            sqlx::query("DROP DATABASE IF EXISTS overdue_demo WITH (FORCE)").execute(&mut server).await;
        dropped.during(format!("dropping the database {DATABASE}"))?;
        Ok(server)
    }

    async fn make_vhost(&self) -> Result<()> {
        let api = &self.management;
        api.delete(&["vhosts", VHOST]).await.map_err(explained)?;
        api.put(&["vhosts", VHOST], json!({"description": "made by Overdue's demo"}))
            .await
            .map_err(explained)?;
        let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
        api.put(&["permissions", VHOST, &self.at.crew.user], everything).await.map_err(explained)?;
        for login in self.users() {
            for user in defined("users", "name", login)? {
                let body = json!({"password": login.password, "tags": user["tags"]});
                api.put(&["users", &login.user], body).await.map_err(explained)?;
            }
        }
        self.grant("permissions", "permissions").await?;
        // The new vhost may still be starting.
        self.broker(&self.at.service).await.map(drop)
    }

    /// Gives each user the rights that the definitions give to the user it stands for.
    async fn grant(&self, what: &str, path: &str) -> Result<()> {
        for login in self.users() {
            for rights in defined(what, "user", login)? {
                self.management.put(&[path, VHOST, &login.user], rights).await.map_err(explained)?;
            }
        }
        Ok(())
    }

    /// The broker as this user sees it; retries for a while.
    pub async fn broker(&self, login: &Login) -> Result<Arc<Broker>> {
        let nodes: Vec<_> = self.at.amqp(login).iter().map(ToString::to_string).collect();
        let broker = Arc::new(Broker::new(&nodes, ""));
        let deadline = Instant::now() + Duration::from_secs(15);
        while let Err(error) = broker.channel().await {
            if Instant::now() > deadline {
                return Err(format!("connecting to the vhost {VHOST} as {}: {error:#}", login.user).into());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(broker)
    }

    pub async fn pool(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(16).connect(self.at.database().as_str()).await;
        pool.during(format!("connecting to the database {DATABASE}"))
    }

    /// The settings of the pods and of every command.
    pub fn deployment(&self) -> Result<Deployment> {
        let [database, amqp, management, declare] = self.at.environment();
        Ok(Deployment {
            database_url: database.1,
            amqp_urls: vec![amqp.1],
            prefix: String::new(),
            settings: vec![management, declare],
            binary: binary()?,
        })
    }

    /// Runs an `overdue` command to its end and returns what it printed.
    pub async fn overdue(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.deployment()?.overdue(arguments).await?)
    }
}

/// The `overdue` that was built with this demo: cargo puts examples into a folder beside it.
pub fn binary() -> Result<PathBuf> {
    let demo = std::env::current_exe()?;
    let overdue = demo.ancestors().nth(2).ok_or("the demo is in no folder")?.join("overdue");
    if overdue.exists() {
        return Ok(overdue);
    }
    Err("the overdue binary is not built: `make demo` does that, or `cargo build --bins`".into())
}

/// What the project's definitions say about the user that this login stands for.
fn defined(what: &str, key: &str, login: &Login) -> Result<Vec<Value>> {
    let original = login.user.replace("overdue-demo-", "overdue-");
    let definitions: Value = serde_json::from_str(DEFINITIONS)?;
    let all = definitions[what].as_array().into_iter().flatten();
    Ok(all.filter(|entry| entry[key] == original.as_str()).cloned().collect())
}
