//! The schema: migrations for the tables, and the functions and triggers that belong to them.

use sqlx::migrate::MigrateError;
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};

/// The migrations that were applied; a name of our own, because the shop may use sqlx's migrations in the same schema.
const APPLIED: &str = "overdue_migrations";

const FUNCTIONS: &str = include_str!("../../migrations/functions.sql");
const TRIGGERS: &str = include_str!("../../migrations/triggers.sql");

/// Brings the schema up to date: tables, functions, triggers.
///
/// # Errors
/// When the database cannot be reached, holds tables of the same names that are not of our migrations, or refuses a statement.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await?;
    // A migration may take as long as it takes, and so may the wait for another pod's.
    (&mut *connection).execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    let outcome = apply(&mut connection).await;
    (&mut *connection).execute("RESET statement_timeout; RESET lock_timeout").await?;
    outcome
}

async fn apply(connection: &mut PgConnection) -> Result<(), MigrateError> {
    refuse_foreign_tables(connection).await?;
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name(APPLIED);
    migrator.run(&mut *connection).await?;
    let schema: String =
        sqlx::query_scalar("SELECT pg_catalog.current_schema()").fetch_one(&mut *connection).await?;
    // Pods that migrate at the same time would replace a function at the same moment, which PostgreSQL refuses.
    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
    sqlx::query("LOCK TABLE overdue_migrations IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    transaction.execute(AssertSqlSafe(rendered(FUNCTIONS, &schema))).await?;
    if !triggers_in_place(&mut transaction).await? {
        transaction.execute(AssertSqlSafe(rendered(TRIGGERS, &schema))).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// A script of ours for this schema.
fn rendered(script: &str, schema: &str) -> String {
    let identifier = format!("\"{}\"", schema.replace('"', "\"\""));
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let inventory = literal(&format!("{identifier}.inventory"));
    // The longer names first: `:schema` is no part of them.
    script
        .replace(":inventory", &inventory)
        .replace(":name", &literal(schema))
        .replace(":schema", &identifier)
}

async fn triggers_in_place(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let in_place: i64 = sqlx::query_scalar(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger
         WHERE tgenabled = 'O' AND (tgrelid, tgname, tgfoid) IN (
             ('orders'::regclass, 'orders_inserted', 'overdue_orders_inserted()'::regprocedure),
             ('orders'::regclass, 'orders_updated', 'overdue_orders_updated()'::regprocedure),
             ('order_items'::regclass, 'order_items_guarded', 'overdue_items_guarded()'::regprocedure))",
    )
    .fetch_one(connection)
    .await?;
    Ok(in_place == 3)
}

/// Tables of our names that no migration of ours has made: an earlier Overdue's, or the shop's own.
async fn refuse_foreign_tables(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let (ours, orders, outbox): (bool, bool, bool) = sqlx::query_as(
        "SELECT pg_catalog.to_regclass('overdue_migrations') IS NOT NULL,
                pg_catalog.to_regclass('orders') IS NOT NULL, pg_catalog.to_regclass('outbox') IS NOT NULL",
    )
    .fetch_one(connection)
    .await?;
    match (ours, orders, outbox) {
        (false, true, true) => Err(refused(
            "the schema holds the tables of an Overdue from before the baseline, which cannot be migrated in place; \
             README.md, \"Moving data from before the baseline\", says how to move the data",
        )),
        (false, true, false) => Err(refused(
            "the schema already holds a table `orders` that is not Overdue's; give Overdue a schema of its own",
        )),
        _ => Ok(()),
    }
}

fn refused(reason: &str) -> MigrateError {
    MigrateError::Execute(sqlx::Error::Configuration(reason.into()))
}
