//! A database with a build's schema.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use url::Url;

use overdue_testkit::deployment::Deployment;

/// A database of its own for one run.
pub struct Database {
    /// The build in it.
    pub deployment: Deployment,
    server: String,
    name: String,
}

impl Database {
    /// Makes and migrates it; the prefix is its name.
    pub async fn new(build: &Deployment) -> Result<Self> {
        static RUN: AtomicU32 = AtomicU32::new(0);
        let name = format!("compare_{}", RUN.fetch_add(1, Ordering::Relaxed));
        let mut server = PgConnection::connect(&build.database_url).await?;
        server.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        server.close().await?;
        let mut url = Url::parse(&build.database_url)?;
        url.set_path(&name);
        let deployment = Deployment { database_url: url.into(), prefix: format!("{name}."), ..build.clone() };
        deployment.overdue(&["migrate"]).await?;
        Ok(Self { deployment, server: build.database_url.clone(), name })
    }

    /// Drops it.
    pub async fn remove(self) -> Result<()> {
        let mut server = PgConnection::connect(&self.server).await?;
        server.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await?;
        server.close().await?;
        Ok(())
    }
}
