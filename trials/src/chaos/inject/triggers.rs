//! Triggers of the shop's own, for a while.

use std::time::Duration;

use anyhow::Result;
use sqlx::{AssertSqlSafe, Executor};
use tokio::time::sleep;

use crate::arena::Arena;

/// Some orders cannot be closed: one in eight, with codes that are nobody's business but the shop's.
pub async fn some_fail(arena: &Arena, lasting: Duration) -> Result<()> {
    let body = "IF NEW.status = 'CLOSED' AND NEW.order_id % 8 = 0 THEN
            RAISE EXCEPTION 'not this one' USING ERRCODE = CASE NEW.order_id % 3 WHEN 0 THEN 'SHOP1' WHEN 1 THEN '21000' ELSE '57P01' END;
        END IF; RETURN NEW;";
    with_trigger(arena, "trial_fail", "orders", body, lasting).await
}

/// No order can be closed: somebody has deployed a mistake.
pub async fn all_fail(arena: &Arena, lasting: Duration) -> Result<()> {
    let body = "IF NEW.status = 'CLOSED' THEN PERFORM FROM no_such_table; END IF; RETURN NEW;";
    with_trigger(arena, "trial_break", "orders", body, lasting).await
}

/// Some customers get a second more, once.
pub async fn give_more_time(arena: &Arena, lasting: Duration) -> Result<()> {
    let body = "IF NEW.status = 'CLOSED' AND NEW.order_id % 5 = 0 AND OLD.updated_at = OLD.created_at THEN
            NEW.status := 'PENDING'; NEW.closed_at := NULL; NEW.payment_deadline := now() + interval '1 s';
        END IF; RETURN NEW;";
    with_trigger(arena, "trial_grant", "orders", body, lasting).await
}

async fn with_trigger(arena: &Arena, name: &str, table: &str, body: &str, lasting: Duration) -> Result<()> {
    // Two of a kind may strike one round.
    let name = format!("{name}_{}", rand::random::<u32>());
    let create = format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
         CREATE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
    );
    let created = arena.pool().execute(AssertSqlSafe(create)).await;
    sleep(lasting).await;
    // In any case, and until it is gone: an answer may have been lost, and the database may be away.
    let gone = format!("DROP FUNCTION IF EXISTS {name} CASCADE");
    while arena.pool().execute(AssertSqlSafe(gone.clone())).await.is_err() {
        sleep(Duration::from_millis(200)).await;
    }
    created?;
    Ok(())
}
