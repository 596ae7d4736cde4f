//! Mixes of good orders and bad ones: which fail with which code, are slow, or are very large.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::World;
use overdue_testkit::random::{Rng, seeded};

/// Codes that a trigger may raise: unknown ones, the shop's own, and those that mean that the database is away.
pub const CODES: [&str; 19] = [
    "21000", "SHOP1", "27000", "38000", "54000", "55000", "XX000", "42P01", "42501", "23514", "P0001",
    "53100", "57P01", "08006", "25006", "28000", "40001", "55P03", "40P01",
];

// Buyers: whose order takes too long, takes a while, has very many items, takes as long as any may on a machine that stalls.
pub const HANGS: i64 = 1;
pub const SLOW: i64 = 2;
pub const HUGE: i64 = 3;
pub const STALLED: i64 = 4;
/// Items of a huge order: more than a batch has time for.
const HUGE_ITEMS: i64 = 40_000;

/// Fails, or is slow, as the order's buyer says: 1000 and up is a code.
const SABOTAGE: &str = "
    CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.user_id = 1 THEN PERFORM pg_sleep(60);
        ELSIF NEW.user_id = 2 THEN PERFORM pg_sleep(3);
        ELSIF NEW.user_id = 4 THEN PERFORM pg_sleep(0.8);
        ELSIF NEW.user_id > 999 THEN
            RAISE EXCEPTION 'order % is bad', NEW.order_id USING ERRCODE = (string_to_array(tg_argv[0], ','))[NEW.user_id - 999];
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER sabotage BEFORE UPDATE ON orders FOR EACH ROW WHEN (NEW.status = 'CLOSED' AND NEW.user_id > 0)
    EXECUTE FUNCTION sabotage('CODES');";

/// Whether this buyer's orders are never closed.
pub fn is_bad(user: i64) -> bool {
    ![SLOW, HUGE, STALLED].contains(&user)
}

/// What each bad order of a mix does, by its number among the 200.
pub fn draw(seed: u64) -> BTreeMap<usize, i64> {
    let mut dice = seeded(seed);
    let mut mix = BTreeMap::new();
    // In some mixes all fail with one code, in others each with its own.
    let (alike, code) = (dice.random_range(0..2) == 0, dice.random_range(0..CODES.len()));
    for _ in 0..dice.random_range(0..41) {
        let code = if alike { code } else { dice.random_range(0..CODES.len()) };
        mix.insert(dice.random_range(0..200), 1_000 + i64::try_from(code).expect("a code"));
    }
    for _ in 0..dice.random_range(0..4) {
        let kinds = [HANGS, HANGS, HANGS, HANGS, SLOW, SLOW, SLOW, SLOW, HUGE];
        mix.insert(dice.random_range(0..200), kinds[dice.random_range(0..kinds.len())]);
    }
    mix
}

/// Places 200 orders without a wake, of which those in the mix are bad; returns their numbers.
pub async fn place(world: &World, mix: &BTreeMap<usize, i64>, window: Duration) -> Vec<i64> {
    world.sql(&SABOTAGE.replace("CODES", &CODES.join(","))).await;
    world.stock(10, 1_000).await;
    let users: Vec<_> = (0..200).map(|n| mix.get(&n).copied().unwrap_or(0)).collect();
    let orders = sqlx::query_scalar(
        "WITH placed AS (
             INSERT INTO orders (user_id, payment_deadline)
             SELECT user_id, now() + make_interval(secs => $2 + 2 * random()) FROM unnest($1::bigint[]) WITH ORDINALITY AS u (user_id, n)
             ORDER BY n RETURNING order_id
         ), items AS (
             INSERT INTO order_items SELECT order_id, 1 + order_id % 10, 1 FROM placed
         )
         SELECT order_id FROM placed ORDER BY order_id",
    );
    let orders: Vec<i64> =
        orders.bind(&users).bind(window.as_secs_f64()).fetch_all(&world.pool).await.expect("placed");
    world.sql("UPDATE inventory SET stock = stock - 20").await;
    if mix.values().any(|user| *user == HUGE) {
        let huge = format!(
            "INSERT INTO inventory SELECT product, 1000 FROM generate_series(11, 10 + {HUGE_ITEMS}) AS product;
             INSERT INTO order_items SELECT order_id, product_id, 1 FROM orders, inventory WHERE user_id = {HUGE} AND product_id > 10;
             UPDATE inventory SET stock = stock - (SELECT count(*) FROM orders WHERE user_id = {HUGE}) WHERE product_id > 10"
        );
        world.sql(&huge).await;
    }
    orders
}
