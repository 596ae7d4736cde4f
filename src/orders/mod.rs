//! A shop's operations on orders, in plain SQL guarded by the status: place, show, pay, cancel, extend.
//!
//! A real shop writes these statements itself; Overdue does not rely on these being used.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use crate::clock::DbTime;
use crate::database::{Database, DatabaseError, Transaction};

/// An order as it is in the database. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Order {
    pub order_id: i64,
    /// The buyer.
    pub user_id: i64,
    /// `PENDING`, `PAID`, …
    pub status: String,
    pub created_at: String,
    pub payment_deadline: String,
    pub closed_at: Option<String>,
    /// How long after its deadline it was closed, in milliseconds.
    pub lateness_ms: Option<f64>,
    pub items: Vec<Item>,
}

/// A line of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub product_id: i64,
    pub quantity: i64,
}

/// Why a shop's request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("there is no order {0}")]
    NoSuchOrder(i64),
    #[error("order {order_id} is {status}; only a PENDING order can be {wanted}")]
    NotPending { order_id: i64, status: String, wanted: &'static str },
    #[error("there is no product {0} in the inventory")]
    NoSuchProduct(i64),
    #[error("product {product_id} has {stock} in stock, and {wanted} were ordered")]
    OutOfStock { product_id: i64, stock: i64, wanted: i64 },
}

fn during(doing: &'static str) -> impl FnOnce(sqlx::Error) -> ShopError {
    move |source| ShopError::Database(DatabaseError { doing, source })
}

/// Places an order that can be paid for `window` from now, and takes its items from stock. Returns its number.
///
/// # Errors
/// When a product does not exist or has too little stock (nothing is changed then), or the database fails.
pub async fn place(
    pool: &Database,
    user_id: i64,
    window: Duration,
    mut items: Vec<Item>,
) -> Result<i64, ShopError> {
    // In product order, as in every transaction that locks several products, to avoid deadlocks.
    items.sort_unstable_by_key(|item| item.product_id);
    let mut session = pool.acquire().await.map_err(during("placing an order"))?;
    let mut transaction = session.begin("").await.map_err(during("placing an order"))?;
    for Item { product_id, quantity } in items.iter().copied() {
        let taken = sqlx::query!(
            "UPDATE inventory SET stock = stock - $2 WHERE product_id = $1 AND stock >= $2",
            product_id,
            quantity
        );
        let taken = taken.execute(&mut transaction).await.map_err(during("taking stock"))?;
        if taken.rows_affected() == 0 {
            return Err(refused(&mut transaction, product_id, quantity).await?);
        }
    }
    let order_id = sqlx::query_scalar!(
        "INSERT INTO orders (user_id, payment_deadline) VALUES ($1, pg_catalog.now() + pg_catalog.make_interval(secs => $2)) RETURNING order_id",
        user_id,
        window.as_secs_f64()
    )
    .fetch_one(&mut transaction)
    .await
    .map_err(during("placing an order"))?;
    let (products, quantities): (Vec<_>, Vec<_>) =
        items.iter().map(|item| (item.product_id, item.quantity)).unzip();
    sqlx::query!(
        "INSERT INTO order_items (order_id, product_id, quantity) SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])",
        order_id,
        &products,
        &quantities
    )
    .execute(&mut transaction)
    .await
    .map_err(during("placing an order"))?;
    transaction.commit().await.map_err(during("placing an order"))?;
    Ok(order_id)
}

async fn refused(
    transaction: &mut Transaction<'_>,
    product_id: i64,
    wanted: i64,
) -> Result<ShopError, ShopError> {
    let stock = sqlx::query_scalar!("SELECT stock FROM inventory WHERE product_id = $1", product_id);
    let stock = stock.fetch_optional(transaction).await.map_err(during("reading stock"))?;
    Ok(match stock {
        Some(stock) => ShopError::OutOfStock { product_id, stock, wanted },
        None => ShopError::NoSuchProduct(product_id),
    })
}

/// Reads an order with its items.
///
/// # Errors
/// When there is no such order, or the database fails.
pub async fn show(pool: &Database, order_id: i64) -> Result<Order, ShopError> {
    let order = sqlx::query!(
        "SELECT user_id, status, created_at, payment_deadline, closed_at FROM orders WHERE order_id = $1",
        order_id
    );
    let order = order.fetch_optional(pool).await.map_err(during("reading an order"))?;
    let order = order.ok_or(ShopError::NoSuchOrder(order_id))?;
    let items = sqlx::query_as!(
        Item,
        "SELECT product_id, quantity FROM order_items WHERE order_id = $1 ORDER BY product_id",
        order_id
    );
    let time = |at: OffsetDateTime| DbTime::from(at).to_string();
    Ok(Order {
        order_id,
        user_id: order.user_id,
        status: order.status,
        created_at: time(order.created_at),
        payment_deadline: time(order.payment_deadline),
        closed_at: order.closed_at.map(time),
        lateness_ms: order.closed_at.map(|at| (at - order.payment_deadline).as_seconds_f64() * 1e3),
        items: items.fetch_all(pool).await.map_err(during("reading an order's items"))?,
    })
}

/// Marks an order as paid.
///
/// # Errors
/// When there is no such order, it is not PENDING, or the database fails.
pub async fn pay(pool: &Database, order_id: i64) -> Result<(), ShopError> {
    let paid = sqlx::query!(
        "UPDATE orders SET status = 'PAID', updated_at = pg_catalog.now() WHERE order_id = $1 AND status = 'PENDING'",
        order_id
    );
    let paid = paid.execute(pool).await.map_err(during("paying an order"))?;
    changed(pool, order_id, paid.rows_affected(), "paid").await
}

/// Cancels an order, gives its stock back and records its event, in one transaction.
///
/// # Errors
/// When there is no such order, it is not PENDING, or the database fails.
pub async fn cancel(pool: &Database, order_id: i64) -> Result<(), ShopError> {
    let cancelled = sqlx::query_scalar!(r#"SELECT overdue_cancel($1) AS "cancelled!""#, order_id);
    let cancelled = cancelled.fetch_one(pool).await.map_err(during("cancelling an order"))?;
    changed(pool, order_id, u64::from(cancelled), "cancelled").await
}

/// Moves an order's deadline by `by`; a trigger records a wake for the new one.
///
/// # Errors
/// When there is no such order, it is not PENDING, or the database fails.
pub async fn extend(pool: &Database, order_id: i64, by: Duration) -> Result<(), ShopError> {
    let extended = sqlx::query!(
        "UPDATE orders SET payment_deadline = payment_deadline + pg_catalog.make_interval(secs => $2), updated_at = pg_catalog.now()
         WHERE order_id = $1 AND status = 'PENDING'",
        order_id,
        by.as_secs_f64()
    );
    let extended = extended.execute(pool).await.map_err(during("extending an order"))?;
    changed(pool, order_id, extended.rows_affected(), "extended").await
}

/// Checks that one row changed, or returns the reason why none did.
async fn changed(pool: &Database, order_id: i64, rows: u64, wanted: &'static str) -> Result<(), ShopError> {
    if rows == 1 {
        return Ok(());
    }
    let status = sqlx::query_scalar!("SELECT status FROM orders WHERE order_id = $1", order_id);
    match status.fetch_optional(pool).await.map_err(during("reading an order"))? {
        Some(status) => Err(ShopError::NotPending { order_id, status, wanted }),
        None => Err(ShopError::NoSuchOrder(order_id)),
    }
}
