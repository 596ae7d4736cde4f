//! `overdue bench`: measures the service on the user's own broker and database.
//!
//! It works in a schema and under a prefix of its own, which it removes afterwards. Its pods are real processes.

mod backlog;
mod burst;
mod depth;
mod limits;
mod load;
mod outcome;
mod paying;
mod place;
mod pods;
mod process;
mod report;
mod sandbox;
mod servers;
mod standard;
mod steady;
mod sweep;

use std::time::Duration;

pub use backlog::{backlog, snapshot};
pub use burst::{Burst, burst};
pub use depth::depth;
pub use outcome::{Figure, Goal, Outcome};
pub use paying::{Paying, paying};
pub use place::place;
pub use pods::{Pods, pods};
pub use report::report;
pub use standard::{Workload, quick, standard};
pub use steady::{Steady, steady};
pub use sweep::sweep;

use crate::broker::management::ManagementError;
use crate::config::settings::SettingError;
use crate::database::DatabaseError;

/// Why a benchmark could not be run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The database user may not create a schema.
    #[error(
        "making a schema to measure in: {0}; GRANT CREATE ON DATABASE … TO this user, or name another user in database_url \
         (DATABASE_URL): the schema of the shop is not touched"
    )]
    NoSchema(String),
    #[error(
        "the database is reached through a pooler, which would be measured, too; name PostgreSQL itself in database_url (DATABASE_URL)"
    )]
    Pooler,
    #[error("making the schema: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
    /// The broker's management API, the only source for the memory of queues.
    #[error(transparent)]
    Management(#[from] ManagementError),
    /// A pod could not be started or its output read, or a signal handler not be installed.
    #[error("running a pod: {0}")]
    Pod(#[from] std::io::Error),
    /// By Ctrl-C or SIGTERM.
    #[error("interrupted; the bench's schema, queues and exchanges are removed")]
    Interrupted,
    #[error(
        "{open} orders are still open {after:?} after the last deadline; the pod's log says why (--pod-log)"
    )]
    Unfinished { open: i64, after: Duration },
}
