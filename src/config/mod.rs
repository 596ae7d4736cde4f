//! The configuration: read once, and checked completely before anything connects.

mod address;
mod schema;
pub mod settings;
mod slip;
mod table;
mod value;

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

pub use self::address::SecretUrl;
use self::address::{amqp_nodes, database, management};
use self::schema::schema;
use self::settings::{Raw, SettingError};
pub use self::value::Pooler;
use self::value::{coalesce, duration, pooler, positive, prefix, truth, whole};
use crate::error_text::words;
use crate::lanes::{LaneError, Lanes};
use crate::wire::message::MOST_ATTEMPTS;
use crate::wire::wake::MAX_ORDERS_PER_WAKE;

/// Every setting but those of the log, typed and checked. [`settings::SETTINGS`] says what each one means.
#[derive(Clone, Debug)]
pub struct Config {
    pub database_url: SecretUrl,
    /// The schema that holds the shop's tables.
    pub schema: String,
    /// The broker's nodes, tried in turn.
    pub amqp_nodes: Vec<SecretUrl>,
    pub management_url: SecretUrl,
    pub prefix: String,
    pub shop: String,
    /// The lanes, with lead and tolerance.
    pub lanes: Lanes,
    pub coalesce: Duration,
    pub max_orders_per_wake: usize,
    pub max_attempts: u32,
    pub retry_base: Duration,
    pub max_window: Duration,
    pub prefetch: u16,
    pub max_in_flight_orders: usize,
    pub close_batch: usize,
    pub close_concurrency: usize,
    pub close_rate: u32,
    pub pace: Duration,
    pub database_connections: u32,
    pub database_pooler: Pooler,
    pub relay_poll: Duration,
    pub relay_batch: i64,
    pub sweep_every: Duration,
    pub sweep_grace: Duration,
    pub probe_every: Duration,
    pub outage_retry_for: Duration,
    pub broker_timeout: Duration,
    pub drain_timeout: Duration,
    pub declare_topology: bool,
}

impl Config {
    /// Types and checks every setting.
    ///
    /// # Errors
    /// Names the first setting that cannot be used, where its value came from, and what to write instead.
    pub fn from_raw(raw: &Raw) -> Result<Self, SettingError> {
        let amqp_nodes = raw.parse("amqp_url", amqp_nodes)?;
        let database_url = raw.parse("database_url", database)?;
        let from_url = driver(&database_url).map_err(|problem| raw.wrong("database_url", problem))?;
        // Without a value of its own, the schema comes from database_url, so an error about it names that setting.
        let (schema_value, source) = match raw.text("schema")? {
            "" => ("", "database_url"),
            value => (value, "schema"),
        };
        let mut config = Self {
            schema: schema(schema_value, from_url.get_options())
                .map_err(|problem| raw.wrong(source, problem))?,
            database_url,
            management_url: raw.parse("management_url", |v| management(v, amqp_nodes.first()))?,
            amqp_nodes,
            prefix: raw.parse("prefix", prefix)?,
            shop: shop(raw)?,
            lanes: lanes(raw)?,
            coalesce: raw.parse("coalesce", coalesce)?,
            max_orders_per_wake: whole(raw, "max_orders_per_wake", 1, MAX_ORDERS_PER_WAKE)?,
            max_attempts: whole(raw, "max_attempts", 1, MOST_ATTEMPTS)?,
            retry_base: positive(raw, "retry_base")?,
            max_window: positive(raw, "max_window")?,
            prefetch: whole(raw, "prefetch", 1, 2_000)?,
            max_in_flight_orders: whole(raw, "max_in_flight_orders", 1, 10_000_000)?,
            close_batch: whole(raw, "close_batch", 1, 10_000)?,
            close_concurrency: whole(raw, "close_concurrency", 1, 64)?,
            close_rate: whole(raw, "close_rate", 0, 10_000_000)?,
            pace: raw.parse("pace", duration)?,
            database_connections: whole(raw, "database_connections", 1, 200)?,
            database_pooler: raw.parse("database_pooler", pooler)?,
            relay_poll: positive(raw, "relay_poll")?,
            relay_batch: whole(raw, "relay_batch", 1, 10_000)?,
            sweep_every: positive(raw, "sweep_every")?,
            sweep_grace: raw.parse("sweep_grace", duration)?,
            probe_every: positive(raw, "probe_every")?,
            outage_retry_for: raw.parse("outage_retry_for", duration)?,
            broker_timeout: positive(raw, "broker_timeout")?,
            drain_timeout: raw.parse("drain_timeout", duration)?,
            declare_topology: raw.parse("declare_topology", truth)?,
        };
        // At a low rate, a whole batch would be closed at once, and the next one seconds later.
        if config.close_rate > 0 {
            config.close_batch = config.close_batch.min((config.close_rate as usize / 10).max(1));
        }
        // The sweep would take orders that wait for their step.
        if 2 * config.pace > config.sweep_grace {
            let problem = format!("must be at most half of sweep_grace ({:?})", config.sweep_grace);
            return Err(raw.wrong("pace", problem));
        }
        // One connection each for the relay's wakes, its events, the sweep, the watch and the clock. A closing slot without
        // a connection would look like an outage.
        let least = config.close_concurrency + 5;
        if least > config.database_connections as usize {
            let problem = format!("must be at least close_concurrency + 5 = {least}");
            return Err(raw.wrong("database_connections", problem));
        }
        Ok(config)
    }

    /// The consumer's prefetch on the process queue: `prefetch`, or fewer when each message may name many orders. A pod
    /// must finish every delivered message to stop without a redelivery. The floor keeps messages with few orders flowing.
    #[must_use]
    pub fn messages_ahead(&self) -> u16 {
        const FLOOR: usize = 250;
        let enough = (self.max_in_flight_orders / self.max_orders_per_wake).max(FLOOR);
        self.prefetch.min(u16::try_from(enough).unwrap_or(u16::MAX))
    }

    /// The database's URL as the driver understands it.
    ///
    /// # Errors
    /// The driver's text about the part of the URL that it refuses.
    pub fn database_options(&self) -> Result<PgConnectOptions, String> {
        driver(&self.database_url)
    }
}

fn driver(url: &SecretUrl) -> Result<PgConnectOptions, String> {
    PgConnectOptions::from_str(url.reveal().as_str()).map_err(|error| words(&error))
}

fn shop(raw: &Raw) -> Result<String, SettingError> {
    let shop = raw.parse("shop", value::shop)?;
    let of_prefix = || raw.parse("prefix", prefix).map(|prefix| prefix.trim_end_matches('.').to_owned());
    if shop.is_empty() { of_prefix() } else { Ok(shop) }
}

fn lanes(raw: &Raw) -> Result<Lanes, SettingError> {
    let lead = raw.parse("lead", duration)?;
    let tolerance = raw.parse("lane_tolerance", duration)?;
    // The default tolerance shrinks to a short lead, so that a shorter lead can be set alone.
    let tolerance = if raw.is_default("lane_tolerance") { tolerance.min(lead) } else { tolerance };
    let lanes = Lanes::new(raw.text("lanes")?, lead, tolerance);
    lanes.map_err(|problem| raw.wrong(to_change(raw, &problem), problem))
}

/// The setting to change: of those involved in the problem, the first with a value of its own, otherwise `lanes`.
fn to_change(raw: &Raw, problem: &LaneError) -> &'static str {
    let take_part: &[&str] = match problem {
        LaneError::ToleranceOverLead(..) => &["lane_tolerance", "lead"],
        LaneError::ShorterThanLead(..) => &["lead", "lane_tolerance", "lanes"],
        _ => &[],
    };
    let said = |name: &&&'static str| !raw.is_default(name);
    take_part.iter().find(said).copied().unwrap_or("lanes")
}

#[cfg(test)]
mod tests;
