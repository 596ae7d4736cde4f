//! Brings the schema up to date and repairs it: tables by migrations, then indexes, functions and triggers.

use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::beforehand::{
    alone, no_schema, refuse_foreign_tables, refuse_without_rights, refused, refused_by_a_pooler, session,
};
use super::blockers::{Waiting, patiently};
use super::catalog::{self, Difference, FUNCTIONS, Repair, rendered};
use super::session::identifier;

/// The table of applied migrations. It has a name of our own, because the shop may use sqlx's migrations in the same schema.
const APPLIED: &str = "overdue_migrations";

const TRIGGERS: &str = include_str!("../../migrations/triggers.sql");

/// How long an attempt waits for a lock on a table. It is short, because sessions that place orders wait behind us.
const BRIEFLY: &str = "300ms";

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| named(sqlx::migrate!()));

/// The version of the last migration.
pub(super) fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Migrations with our table name, and without sqlx's lock, which ours replaces: while sqlx waits for its lock, an index that
/// is built CONCURRENTLY waits for sqlx.
fn named(mut migrations: Migrator) -> Migrator {
    migrations.dangerous_set_table_name(APPLIED);
    migrations.set_locking(false);
    migrations
}

/// Brings the schema up to date, and repairs what differs: tables, indexes, functions, triggers. It works in sessions of its own,
/// which must not go through a pooler.
///
/// # Errors
/// When the database cannot be reached, holds tables of the same names that our migrations did not create, refuses a
/// statement, or differs in a way that only a person can repair.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), MigrateError> {
    migrate_and_say(options, &mut |line| tracing::warn!(event = "migrate_waits", "{line}")).await
}

/// Same as [`migrate`]; `say` gets a line for each wait for another session, and for each invalid index.
///
/// # Errors
/// Same as [`migrate`].
pub async fn migrate_and_say(
    options: &PgConnectOptions,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), MigrateError> {
    let mut migrating = Migrating::begin(options, say).await?;
    migrating.migrations(&MIGRATIONS).await?;
    migrating.repair().await
}

/// Same as [`migrate`], with other migrations and without the repair of what this version needs: for tests.
///
/// # Errors
/// Same as [`migrate`].
#[doc(hidden)]
pub async fn migrate_by(
    options: &PgConnectOptions,
    migrations: Migrator,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<(), MigrateError> {
    let mut migrating = Migrating::begin(options, say).await?;
    migrating.migrations(&named(migrations)).await
}

/// Sets up an empty schema and returns it in the form of `migrations/schema.txt`.
///
/// # Errors
/// Same as [`migrate`].
#[doc(hidden)]
pub async fn dump(options: &PgConnectOptions) -> Result<String, MigrateError> {
    let mut silent = |_| {};
    let mut migrating = Migrating::begin(options, &mut silent).await?;
    migrating.migrations(&MIGRATIONS).await?;
    migrating.functions().await?;
    migrating.triggers().await?;
    let schema = migrating.schema.clone();
    Ok(catalog::dump(&catalog::read(&mut migrating.brief, &schema).await?))
}

/// Sessions that migrate, under a lock that keeps other pods from migrating at the same time.
struct Migrating<'a> {
    schema: String,
    /// Holds that lock. Waits only briefly for a table's lock.
    brief: PgConnection,
    /// Waits for as long as it takes; no other session waits for its statements.
    patient: PgConnection,
    /// Finds out who blocks the other two.
    looking: PgConnection,
    say: &'a mut (dyn FnMut(String) + Send),
}

impl<'a> Migrating<'a> {
    async fn begin(
        options: &PgConnectOptions,
        say: &'a mut (dyn FnMut(String) + Send),
    ) -> Result<Self, MigrateError> {
        let options = options.clone().options([("statement_timeout", "0")]);
        let mut looking = PgConnection::connect_with(&options).await.map_err(refused_by_a_pooler)?;
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
                // Builds an index while other sessions work, however long that takes.
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

    /// Refuses a schema that a newer version has migrated.
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

    /// Rebuilds the invalid indexes that an interrupted build left behind: they would neither be used nor be built again.
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
            // What REINDEX itself left behind has no use.
            let leftover = index.contains("_ccnew") || index.contains("_ccold");
            let statement =
                if leftover { "DROP INDEX CONCURRENTLY IF EXISTS" } else { "REINDEX INDEX CONCURRENTLY" };
            (self.say)(format!("the index {index} is not valid: {statement}"));
            let name = format!("{}.{}", identifier(&self.schema), identifier(&index));
            (&mut self.patient).execute(AssertSqlSafe(format!("{statement} {name}"))).await?;
        }
        Ok(())
    }

    /// Repairs functions, triggers and indexes; fails if a difference is left that it cannot repair.
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
                "the schema {} is not what this version needs, and cannot be repaired: {}{}; correct it by hand, or restore it \
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

    /// Builds a missing index while other sessions work.
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
