//! How a burst of closes affects buyers who pay meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::BenchError;
use super::burst::wait_until_closed;
use super::load::{Orders, PRODUCTS, place_orders, time_to_place};
use super::outcome::Outcome;
use super::place::Quantiles;
use super::sandbox::{Sandbox, failed};
use crate::clock::DbTime;
use crate::config::settings::Raw;

/// Payments per second.
const RATE: u32 = 200;
/// How often payments are measured, alone and beside a burst. One burst is so short that the slowest hundredth of the
/// payments beside it would be two.
const TIMES: u32 = 5;
/// How long payments are measured alone, each time.
const IDLE: Duration = Duration::from_secs(6);
/// Time for the relay to put every wake into its lane, before payments are measured.
const BEFORE: Duration = Duration::from_secs(12);
/// Orders to be paid: enough for all measurements.
const PAYERS: i64 = 50_000;
/// The rate at which all is measured once more, unless the setting has one.
const CLOSE_RATE: u32 = 10_000;
/// How long a burst may last.
const PATIENCE: Duration = Duration::from_secs(240);

/// A burst beside which buyers pay.
#[derive(Clone, Copy, Debug)]
pub struct Paying {
    /// Orders that are closed in each burst.
    pub orders: i64,
    /// Whether all of them hold the same two products.
    pub hot: bool,
}

/// Measures payments alone, then while a burst is closed, `TIMES` times; all of it without `close_rate` and with it.
///
/// # Errors
/// When something could not be set up, or the orders were not closed in time.
pub async fn paying(
    raw: &Raw,
    burst: Paying,
    log: Option<&Path>,
    say: impl Fn(String),
) -> Result<Outcome, BenchError> {
    Sandbox::with(raw, log, async |sandbox| {
        let later = sandbox.now().await?.plus(Duration::from_secs(86_400));
        say(format!("placing {PAYERS} orders to be paid"));
        place_orders(sandbox, Orders::due_at(later, PAYERS)).await?;
        let mut payers: Vec<i64> = sqlx::query_scalar("SELECT order_id FROM orders ORDER BY order_id DESC")
            .fetch_all(&sandbox.pool)
            .await
            .map_err(failed("listing orders"))?;
        let pod = sandbox.pod_with("close_rate", "0").await?;
        let free = several(sandbox, burst, &mut payers, &say).await?;
        pod.stop().await?;
        let last = format!("payment_deadline = timestamptz 'epoch' + interval '1 us' * {}", free.due.0);
        let close_rate = if sandbox.config.close_rate > 0 { sandbox.config.close_rate } else { CLOSE_RATE };
        let pod = sandbox.pod_with("close_rate", &close_rate.to_string()).await?;
        let gentle = several(sandbox, burst, &mut payers, &say).await?;
        pod.stop().await?;
        let orders = f64::from(TIMES) * burst.orders as f64;
        let paid: usize =
            [&free, &gentle].map(|all| all.idle.asked.len() + all.busy.asked.len()).iter().sum();
        let (free_seconds, gentle_seconds) = (free.seconds, gentle.seconds);
        let (idle, busy) = (Quantiles::of(free.idle.wanted), Quantiles::of(free.busy.wanted));
        let (idle_asked, busy_asked) = (Quantiles::of(free.idle.asked), Quantiles::of(free.busy.asked));
        let (gentle_idle, gentle_busy) = (Quantiles::of(gentle.idle.asked), Quantiles::of(gentle.busy.asked));
        let figures = vec![
            ("statement p99 beside the burst, of idle", busy_asked.p99 / idle_asked.p99, ""),
            ("statement p99 beside the burst", busy_asked.p99, "ms"),
            ("statement p99 idle", idle_asked.p99, "ms"),
            ("closed per second meanwhile", orders / free_seconds, "/s"),
            ("statement p99 with close_rate, of idle", gentle_busy.p99 / gentle_idle.p99, ""),
            ("statement p99 with close_rate", gentle_busy.p99, "ms"),
            ("statement p99 idle, before the burst with close_rate", gentle_idle.p99, "ms"),
            ("closed per second with close_rate", orders / gentle_seconds, "/s"),
            // From the moment for which the bench's timer had planned the payment.
            ("payment p99 beside the burst, of idle", busy.p99 / idle.p99, ""),
            ("payment p99 beside the burst", busy.p99, "ms"),
            ("payment p99 idle", idle.p99, "ms"),
            ("paid", paid as f64, "orders"),
        ];
        let products = if burst.hot { "the same two products" } else { "many products" };
        let workload = format!(
            "paying while {} orders with {products} are closed, as fast as possible and with close_rate = {close_rate}",
            burst.orders
        );
        let pace = sandbox.slices(&last, 100).await?;
        Ok(Outcome { lateness: sandbox.bins(&last).await?, pace, ..Outcome::new(workload, figures) })
    })
    .await
}

async fn several(
    sandbox: &Sandbox,
    burst: Paying,
    payers: &mut Vec<i64>,
    say: &impl Fn(String),
) -> Result<Measured, BenchError> {
    let due = sandbox.now().await?;
    let mut all = Measured { due, idle: Took::default(), busy: Took::default(), seconds: 0.0 };
    for _ in 0..TIMES {
        measure(sandbox, burst, payers, &mut all, say).await?;
    }
    Ok(all)
}

/// How long payments and bursts took.
struct Measured {
    /// When the last burst was due.
    due: DbTime,
    idle: Took,
    busy: Took,
    /// Of all bursts together.
    seconds: f64,
}

/// How long payments took.
#[derive(Default)]
struct Took {
    /// From the payment's scheduled start, which the bench's timer meets within one or two milliseconds.
    wanted: Vec<Duration>,
    /// From when the statement was sent to the database.
    asked: Vec<Duration>,
}

impl Took {
    fn add(&mut self, (wanted, asked): (Duration, Duration)) {
        self.wanted.push(wanted);
        self.asked.push(asked);
    }
}

async fn measure(
    sandbox: &Sandbox,
    Paying { orders, hot }: Paying,
    payers: &mut Vec<i64>,
    all: &mut Measured,
    say: &impl Fn(String),
) -> Result<(), BenchError> {
    let ahead = BEFORE + IDLE + time_to_place(orders);
    let due = sandbox.now().await?.plus(ahead);
    say(format!("placing {orders} orders"));
    let products = if hot { 2 } else { PRODUCTS };
    place_orders(sandbox, Orders { products, ..Orders::due_at(due, orders) }).await?;
    sleep(due.since(sandbox.now().await?).saturating_sub(IDLE + Duration::from_secs(2))).await;
    say(format!("{RATE} payments/s, nothing else"));
    let idle = async {
        sleep(IDLE).await;
        Ok(())
    };
    pay_during(sandbox, payers, idle, &mut all.idle).await?;
    sleep(due.since(sandbox.now().await?)).await;
    say(format!("{RATE} payments/s while {orders} orders are closed"));
    let start = Instant::now();
    let closed = wait_until_closed(sandbox, due, PATIENCE);
    pay_during(sandbox, payers, closed, &mut all.busy).await?;
    all.seconds += start.elapsed().as_secs_f64();
    all.due = due;
    Ok(())
}

/// Pays orders at a steady rate until `over` is done, and records how long each payment took.
async fn pay_during(
    sandbox: &Sandbox,
    payers: &mut Vec<i64>,
    over: impl Future<Output = Result<(), BenchError>>,
    took: &mut Took,
) -> Result<(), BenchError> {
    let mut over = std::pin::pin!(over);
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    // A late tick is made up for, so that a buyer who had to wait counts with the whole wait, as in a shop.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut paying = JoinSet::new();
    loop {
        tokio::select! {
            outcome = &mut over => {
                outcome?;
                break;
            }
            begin = ticks.tick() => {
                let Some(order) = payers.pop() else { break };
                let pool = sandbox.pool.clone();
                paying.spawn(async move {
                    let mut connection = pool.acquire().await?;
                    let asked = Instant::now();
                    let pay = "UPDATE orders SET status = 'PAID', updated_at = now()
                               WHERE order_id = $1 AND status = 'PENDING'";
                    sqlx::query(pay).bind(order).execute(&mut connection).await?;
                    Ok::<_, sqlx::Error>((begin.elapsed(), asked.elapsed()))
                });
            }
            Some(paid) = paying.join_next() => {
                took.add(paid.map_err(std::io::Error::other)?.map_err(failed("paying"))?);
            }
        }
    }
    for paid in paying.join_all().await {
        took.add(paid.map_err(failed("paying"))?);
    }
    Ok(())
}
