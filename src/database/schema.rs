//! Brings the schema up to date and repairs it: tables by migrations, then indexes, functions and triggers.

use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use super::beforehand::{alone, no_schema, refuse_foreign_tables, refuse_without_rights, refused, session};
use super::blockers::{Waiting, patiently};
use super::catalog::{self, Difference, FUNCTIONS, Repair, rendered};
use super::session::identifier;

/// The migrations that were applied; a name of our own, because the shop may use sqlx's migrations in the same schema.
const APPLIED: &str = "overdue_migrations";

const TRIGGERS: &str = include_str!("../../migrations/triggers.sql");

/// A lock on a table is waited for this long, because whoever places an order waits behind us; then it is tried again.
const BRIEFLY: &str = "300ms";

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| named(sqlx::migrate!()));

/// The version of the last migration.
pub(super) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Migrations with the table's name of ours, and our lock instead of sqlx's: while sqlx waits for its lock, an index that is
/// built CONCURRENTLY waits for sqlx.
fn named(mut migrations: Migrator) -> Migrator {
    migrations.dangerous_set_table_name(APPLIED);
    migrations.set_locking(false);
    migrations
}

/// Brings the schema up to date, and repairs what differs: tables, indexes, functions, triggers.
///
/// # Errors
/// When the database cannot be reached, holds tables of the same names that are not of our migrations, refuses a statement, or
/// differs in a way that only a person can mend.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    migrate_and_say(pool, &mut |line| tracing::warn!(event = "migrate_waits", "{line}")).await
}

/// As [`migrate`]; `say` is given a line whenever it waits for somebody.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_and_say(
    pool: &PgPool,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), MigrateError> {
    let mut migrating = Migrating::begin(pool, say).await?;
    migrating.migrations(&MIGRATIONS).await?;
    migrating.repair().await
}

/// As [`migrate`], with other migrations and without the repair of what this version wants: for tests.
///
/// # Errors
/// As [`migrate`].
#[doc(hidden)]
pub async fn migrate_by(
    pool: &PgPool,
    migrations: Migrator,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), MigrateError> {
    let mut migrating = Migrating::begin(pool, say).await?;
    migrating.migrations(&named(migrations)).await
}

/// Sets up an empty schema and returns it as `migrations/schema.txt` is to have it.
///
/// # Errors
/// As [`migrate`].
#[doc(hidden)]
pub async fn dump(pool: &PgPool) -> Result<String, MigrateError> {
    let mut silent = |_| {};
    let mut migrating = Migrating::begin(pool, &mut silent).await?;
    migrating.migrations(&MIGRATIONS).await?;
    migrating.functions().await?;
    migrating.triggers().await?;
    let schema = migrating.schema.clone();
    Ok(catalog::dump(&catalog::read(&mut migrating.brief, &schema).await?))
}

/// Sessions that migrate, under a lock that keeps other pods from migrating at the same time.
struct Migrating<'a> {
    schema: String,
    /// Holds the lock. Waits for a table's lock briefly.
    brief: PgConnection,
    /// Waits for as long as it takes, with statements that nobody waits for.
    patient: PgConnection,
    /// Looks who blocks the others.
    looking: PgConnection,
    say: &'a mut (dyn FnMut(String) + Send),
}

impl<'a> Migrating<'a> {
    async fn begin(pool: &PgPool, say: &'a mut (dyn FnMut(String) + Send)) -> Result<Self, MigrateError> {
        let options = pool.connect_options().as_ref().clone().options([("statement_timeout", "0")]);
        let mut looking = PgConnection::connect_with(&options).await?;
        let schema: Option<String> =
            sqlx::query_scalar("SELECT pg_catalog.current_schema()::text").fetch_one(&mut looking).await?;
        let Some(schema) = schema else { return Err(no_schema(&mut looking).await?) };
        let connect = async |lock_timeout| session(&options, &schema, lock_timeout).await;
        let (mut brief, patient) = (connect(BRIEFLY).await?, connect("0").await?);
        alone(&mut brief, &schema, say).await?;
        Ok(Self { schema, brief, patient, looking, say })
    }

    /// Applies the migrations that are missing.
    async fn migrations(&mut self, migrations: &Migrator) -> Result<(), MigrateError> {
        refuse_foreign_tables(&mut self.brief).await?;
        refuse_without_rights(&mut self.brief, &self.schema).await?;
        self.refuse_newer(migrations).await?;
        self.valid_indexes().await?;
        for migration in migrations.iter() {
            let version = migration.version;
            if migration.no_tx {
                // Builds an index, beside everybody else, however long that takes.
                migrations.run_to(version, &mut self.patient).await?;
                continue;
            }
            let mut waiting = Waiting::new(&mut self.looking, &mut *self.say, "to migrate");
            patiently(&mut self.brief, &mut waiting, async |brief| {
                migrations.run_to(version, &mut *brief).await
            })
            .await?;
        }
        Ok(())
    }

    /// A newer version's schema is not to be changed back.
    async fn refuse_newer(&mut self, migrations: &Migrator) -> Result<(), MigrateError> {
        let there = sqlx::query_scalar("SELECT pg_catalog.to_regclass('overdue_migrations') IS NOT NULL");
        if !there.fetch_one(&mut self.brief).await? {
            return Ok(());
        }
        let applied = sqlx::query_scalar("SELECT pg_catalog.max(version) FROM overdue_migrations");
        let applied: Option<i64> = applied.fetch_one(&mut self.brief).await?;
        let newest = migrations.iter().map(|migration| migration.version).max();
        if applied > newest {
            return Err(refused(format!(
                "a newer Overdue has migrated the schema {}; run its `overdue migrate`",
                self.schema
            )));
        }
        Ok(())
    }

    /// Builds again what a build that was cut off has left, which would neither be used nor be built again.
    async fn valid_indexes(&mut self) -> Result<(), MigrateError> {
        let invalid = sqlx::query_as(
            "SELECT i.relname::text, pg_catalog.pg_get_indexdef(i.oid) FROM pg_catalog.pg_index AS x
                    JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
             WHERE NOT x.indisvalid AND n.nspname OPERATOR(pg_catalog.=) $1::text AND t.relname OPERATOR(pg_catalog.=) ANY ($2::text[])",
        );
        let invalid: Vec<(String, String)> = invalid
            .bind(&self.schema)
            .bind(catalog::TABLES.map(str::to_owned))
            .fetch_all(&mut self.brief)
            .await?;
        for (index, _) in invalid {
            // What REINDEX itself has left behind is only in the way.
            let leftover = index.contains("_ccnew") || index.contains("_ccold");
            let statement =
                if leftover { "DROP INDEX CONCURRENTLY IF EXISTS" } else { "REINDEX INDEX CONCURRENTLY" };
            (self.say)(format!("the index {index} is not valid: {statement}"));
            let name = format!("{}.{}", identifier(&self.schema), identifier(&index));
            (&mut self.patient).execute(AssertSqlSafe(format!("{statement} {name}"))).await?;
        }
        Ok(())
    }

    /// Makes functions, triggers and indexes what they should be, and refuses what cannot be made so.
    async fn repair(&mut self) -> Result<(), MigrateError> {
        let differences = self.differences().await?;
        let any = |repair| differences.iter().any(|difference| difference.repair == repair);
        if any(Repair::Functions) {
            self.functions().await?;
        }
        if any(Repair::Triggers) {
            self.triggers().await?;
        }
        for index in differences.iter().filter(|difference| difference.repair == Repair::Indexes) {
            self.build(index).await?;
        }
        let left = if differences.is_empty() { differences } else { self.differences().await? };
        match left.as_slice() {
            [] => Ok(()),
            [first, more @ ..] => Err(refused(format!(
                "the schema {} is not what this version wants, and cannot be repaired: {}{}; make it so by hand, or restore it \
                 from a backup",
                self.schema,
                first.problem,
                if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) }
            ))),
        }
    }

    /// Replaces the functions, all or none.
    async fn functions(&mut self) -> Result<(), MigrateError> {
        let mut transaction = self.brief.begin().await?;
        transaction.execute(AssertSqlSafe(rendered(FUNCTIONS, &self.schema))).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn triggers(&mut self) -> Result<(), MigrateError> {
        let script = rendered(TRIGGERS, &self.schema);
        let mut waiting = Waiting::new(&mut self.looking, &mut *self.say, "to set up the triggers");
        patiently(&mut self.brief, &mut waiting, async |brief| {
            let mut transaction = brief.begin().await?;
            transaction.execute(AssertSqlSafe(script.clone())).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    async fn differences(&mut self) -> Result<Vec<Difference>, MigrateError> {
        let catalog = catalog::read(&mut self.brief, &self.schema).await?;
        Ok(catalog::differences(&catalog, &self.schema))
    }

    /// Builds an index that is missing, beside everybody else.
    async fn build(&mut self, index: &Difference) -> Result<(), MigrateError> {
        let line = catalog::WANTED.lines().find_map(|line| line.strip_prefix(&format!("{}: ", index.object)));
        let Some((before, after)) = line.and_then(|definition| definition.split_once(" INDEX ")) else {
            return Ok(());
        };
        let statement = format!("{before} INDEX CONCURRENTLY IF NOT EXISTS {after}");
        (&mut self.patient).execute(AssertSqlSafe(statement)).await?;
        Ok(())
    }
}
