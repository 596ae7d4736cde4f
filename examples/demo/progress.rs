//! Progress while the demo runs: bars on a terminal, a line every five seconds elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use overdue_testkit::broker::Broker;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::pods::Pods;
use crate::{During, Result};

/// How long after the last window an order may still be PENDING. The sweep would have closed it by then (its grace is 10 s
/// and its period 30 s), so Overdue has lost such an order. The report says how many orders the sweep had to close.
const PATIENCE: Duration = Duration::from_secs(45);

/// How many orders are in which status.
#[derive(Debug, sqlx::FromRow)]
struct Counts {
    placed: i64,
    paid: i64,
    cancelled: i64,
    closed: i64,
    waiting: i64,
    seconds_after_last_window: f64,
}

/// Shows the progress until `orders` are placed and every one of them has left PENDING.
pub async fn watch(pool: &PgPool, broker: &Broker, pods: &Pods, orders: usize) -> Result<()> {
    let mut board = Board::new(u64::try_from(orders)?)?;
    loop {
        let counts = count(pool).await?;
        board.show(&counts, broker.depth("order.parked.queue").await?);
        pods.check().await?;
        if usize::try_from(counts.placed)? == orders {
            if counts.waiting == 0 {
                break;
            }
            if counts.seconds_after_last_window > PATIENCE.as_secs_f64() {
                return Err(lost(pool).await?.into());
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
    board.bars.clear()?;
    Ok(())
}

async fn count(pool: &PgPool) -> Result<Counts> {
    let counts = sqlx::query_as(
        "SELECT count(*) AS placed,
                count(*) FILTER (WHERE status = 'PAID') AS paid,
                count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
                count(*) FILTER (WHERE status = 'CLOSED') AS closed,
                count(*) FILTER (WHERE status = 'PENDING') AS waiting,
                coalesce(extract(epoch FROM clock_timestamp() - max(payment_deadline)), 0)::float8
                    AS seconds_after_last_window
         FROM orders",
    );
    counts.fetch_one(pool).await.during("counting orders")
}

/// Names the orders that should have been closed long before.
async fn lost(pool: &PgPool) -> Result<String> {
    let pending = "SELECT order_id FROM orders WHERE status = 'PENDING' ORDER BY payment_deadline, order_id";
    let ids: Vec<i64> = sqlx::query_scalar(pending).fetch_all(pool).await?;
    let some: Vec<_> = ids.iter().take(5).map(ToString::to_string).collect();
    let (count, some) = (ids.len(), some.join(", "));
    Ok(format!("{count} orders are still PENDING {PATIENCE:?} after the last window, among them {some}"))
}

struct Board {
    bars: MultiProgress,
    placed: ProgressBar,
    settled: ProgressBar,
    line: ProgressBar,
    opened: Instant,
    next_plain: Option<Instant>,
}

impl Board {
    fn new(orders: u64) -> Result<Self> {
        let bars = MultiProgress::new(); // on standard error; draws nothing where that is no terminal
        let bar =
            ProgressStyle::with_template("  {prefix:8} {bar:60.green/dim} {human_pos:>5} of {human_len}")?;
        let add = |length, style: ProgressStyle, prefix| {
            bars.add(ProgressBar::new(length).with_style(style.progress_chars("━╸─")).with_prefix(prefix))
        };
        Ok(Self {
            placed: add(orders, bar.clone(), "placed"),
            settled: add(orders, bar, "settled"),
            line: add(0, ProgressStyle::with_template("  {msg}")?, ""),
            opened: Instant::now(),
            next_plain: (!std::io::stderr().is_terminal()).then(Instant::now),
            bars,
        })
    }

    fn show(&mut self, counts: &Counts, parked: u32) {
        let number = |count: i64| count.unsigned_abs();
        let human = |count: i64| HumanCount(number(count));
        let Counts { placed, paid, cancelled, closed, waiting, .. } = *counts;
        let elapsed = self.opened.elapsed().as_secs();
        let (placed_, paid, cancelled, closed, waiting) =
            (human(placed), human(paid), human(cancelled), human(closed), human(waiting));
        let line = format!(
            "{paid} paid · {cancelled} cancelled · {closed} closed · {waiting} still waiting · {parked} messages parked · {elapsed} s"
        );
        self.placed.set_position(number(placed));
        self.settled.set_position(number(placed - counts.waiting));
        if let Some(next) = self.next_plain.filter(|next| *next <= Instant::now()) {
            eprintln!("demo: {placed_} placed · {line}");
            self.next_plain = Some(next + Duration::from_secs(5));
        }
        self.line.set_message(line);
    }
}
