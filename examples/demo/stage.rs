//! The stage: a database and a vhost of the demo's own, and users with production's rights and no more.

use std::path::PathBuf;
use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use overdue_testkit::management::Management;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::addresses::{Addresses, DATABASE, Login, VHOST};
use crate::management::explained;
use crate::{During, Failure, Result};

/// The rights are read from the file that production imports, so that the demo also shows that they suffice.
const DEFINITIONS: &str = include_str!("../../rabbitmq/definitions.json");

/// Builds, connects, runs commands, and strikes the stage again.
#[derive(Debug)]
pub struct Stage {
    /// Where everything is.
    pub at: Addresses,
    management: Management,
}

impl Stage {
    /// Reads the addresses; touches nothing.
    pub fn from_env() -> Result<Self> {
        let at = Addresses::from_env()?;
        let Login { user, password } = &at.administrator;
        let management = Management::new(at.management.clone(), user, password);
        Ok(Self { at, management })
    }

    /// Builds it: whatever an earlier demo left is removed.
    pub async fn build(&self) -> Result<()> {
        let mut server = self.drop_database().await?;
        let made = sqlx::query("CREATE DATABASE overdue_demo").execute(&mut server).await;
        made.during(format!("making the database {DATABASE} (the user in DATABASE_URL needs CREATEDB)"))?;
        self.overdue(&["migrate"]).await?;
        eprintln!("demo: database {DATABASE}: made, schema migrated");
        self.make_vhost().await?;
        // An administrator's business: the service's user may not configure.
        let nodes: Vec<_> = self.at.amqp(&self.at.crew).iter().map(ToString::to_string).collect();
        self.overdue(&["topology", "declare", "--amqp-url", &nodes.join(",")]).await?;
        // RabbitMQ 4 takes a topic permission only for an exchange that is there.
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
        // FORCE: a psql that somebody left open is no reason to fail.
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
        // Who goes on at once may find the new vhost still starting.
        self.connect(&self.at.service).await.map(drop)
    }

    /// Gives each user the rights that the definitions give to its original.
    async fn grant(&self, what: &str, path: &str) -> Result<()> {
        for login in self.users() {
            for rights in defined(what, "user", login)? {
                self.management.put(&[path, VHOST, &login.user], rights).await.map_err(explained)?;
            }
        }
        Ok(())
    }

    /// A connection to the vhost; patient for a while.
    pub async fn connect(&self, login: &Login) -> Result<Connection> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let mut last = Failure::from("no node answers");
            for url in self.at.amqp(login) {
                let properties = ConnectionProperties::default().with_connection_name("overdue demo".into());
                match timeout(Duration::from_secs(5), Connection::connect(url.as_str(), properties)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(error)) => last = error.into(),
                    Err(late) => last = late.into(),
                }
            }
            if Instant::now() > deadline {
                return Err(format!("connecting to the vhost {VHOST} as {}: {last}", login.user).into());
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The shop's connections to the database.
    pub async fn pool(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(16).connect(self.at.database().as_str()).await;
        pool.during(format!("connecting to the database {DATABASE}"))
    }

    /// An `overdue` command on this stage, with default settings whatever the caller's environment says.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OVERDUE_"))
        {
            command.env_remove(name);
        }
        command.args(arguments).envs(self.at.environment());
        Ok(command)
    }

    /// Runs an `overdue` command to its end and returns what it printed.
    pub async fn overdue(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments)?.output().await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("`overdue {}` ended with {}: {said}", arguments.join(" "), output.status).into())
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

/// What the project's definitions say of the user that this login is a copy of.
fn defined(what: &str, key: &str, login: &Login) -> Result<Vec<Value>> {
    let original = login.user.replace("overdue-demo-", "overdue-");
    let definitions: Value = serde_json::from_str(DEFINITIONS)?;
    let all = definitions[what].as_array().into_iter().flatten();
    Ok(all.filter(|entry| entry[key] == original.as_str()).cloned().collect())
}
