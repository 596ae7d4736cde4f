//! Waits for a lock in short attempts, so that no other session waits behind us for long, and reports who holds it.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::migrate::MigrateError;
use tokio::time::{Instant, sleep};

use super::beforehand::refused;

/// Pause between two attempts, in which the sessions that waited behind us go on.
const BETWEEN: Duration = Duration::from_millis(700);
/// When to give up.
const LONGEST: Duration = Duration::from_secs(300);
/// How often the wait is reported.
const AGAIN: Duration = Duration::from_secs(10);
/// Pause before each look at who blocks.
const LOOK: Duration = Duration::from_millis(50);

/// A wait for locks: what for, and the session that looks for blockers.
pub(super) struct Waiting<'a> {
    looking: &'a mut PgConnection,
    say: &'a mut (dyn FnMut(String) + Send),
    what_for: &'static str,
}

impl<'a> Waiting<'a> {
    pub fn new(
        looking: &'a mut PgConnection,
        say: &'a mut (dyn FnMut(String) + Send),
        what_for: &'static str,
    ) -> Self {
        Self { looking, say, what_for }
    }
}

/// Retries a statement whose session waits for locks only briefly, until it gets them or `LONGEST` has passed.
pub(super) async fn patiently(
    connection: &mut PgConnection,
    waiting: &mut Waiting<'_>,
    statement: impl AsyncFn(&mut PgConnection) -> Result<(), MigrateError>,
) -> Result<(), MigrateError> {
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut *connection).await?;
    let (began, mut reported) = (Instant::now(), None::<Instant>);
    loop {
        let mut blockers = None;
        let outcome = {
            let mut attempt = std::pin::pin!(statement(connection));
            loop {
                tokio::select! {
                    outcome = &mut attempt => break outcome,
                    seen = look(waiting.looking, pid) => blockers = seen?.or(blockers),
                }
            }
        };
        let Err(error) = outcome else { return Ok(()) };
        if !is_lock_timeout(&error) {
            return Err(error);
        }
        let who = blockers.unwrap_or_else(|| "another session".to_owned());
        if began.elapsed() > LONGEST {
            let what_for = waiting.what_for;
            return Err(refused(format!(
                "no lock {what_for} within {LONGEST:?}: {who} holds it; end that session, and try again"
            )));
        }
        if reported.is_none_or(|reported| reported.elapsed() > AGAIN) {
            reported = Some(Instant::now());
            (waiting.say)(format!("waiting for a lock {}: {who} holds it", waiting.what_for));
        }
        sleep(BETWEEN).await;
    }
}

fn is_lock_timeout(error: &MigrateError) -> bool {
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = error else {
        return false;
    };
    source.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// Process, user, application, and the age of its transaction in seconds.
type Blocker = (i32, Option<String>, Option<String>, Option<f64>);

/// Who blocks this session, looked up after a pause.
async fn look(looking: &mut PgConnection, pid: i32) -> Result<Option<String>, MigrateError> {
    sleep(LOOK).await;
    let blockers = sqlx::query_as::<_, Blocker>(
        "SELECT a.pid, a.usename::text, a.application_name,
                extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.xact_start)::float8
         FROM pg_catalog.pg_stat_activity AS a
         WHERE a.pid OPERATOR(pg_catalog.=) ANY (pg_catalog.pg_blocking_pids($1)) ORDER BY 1",
    )
    .bind(pid)
    .fetch_all(looking)
    .await?;
    let shown: Vec<_> = blockers
        .into_iter()
        .map(|(pid, user, application, seconds)| {
            let user = user.unwrap_or_else(|| "?".to_owned());
            let application = application.filter(|name| !name.is_empty()).map(|name| format!(", {name}"));
            let since = seconds.map(|seconds| format!(", in a transaction for {seconds:.0} s"));
            format!("process {pid} ({user}{}{})", application.unwrap_or_default(), since.unwrap_or_default())
        })
        .collect();
    Ok((!shown.is_empty()).then(|| shown.join(" and ")))
}
