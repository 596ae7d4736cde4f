//! The configuration: read once, checked whole before any port opens.

mod address;
mod schema;
mod value;

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

pub use self::address::SecretUrl;
use self::address::{amqp_nodes, management, url};
use self::schema::schema;
use self::value::{coalesce, duration, positive, prefix, truth, whole};
use crate::lane::Lanes;
use crate::settings::{Raw, SettingError};

/// Everything that can be set, typed and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`crate::settings::SETTINGS`] for what each of these means.
    pub database_url: SecretUrl,
    /// The schema that holds the shop's tables.
    pub schema: String,
    /// The broker's nodes, tried in turn.
    pub amqp_nodes: Vec<SecretUrl>,
    /// The management API.
    pub management_url: SecretUrl,
    /// Before every name.
    pub prefix: String,
    /// The lanes, with lead and tolerance.
    pub lanes: Lanes,
    /// Orders within this time share a message.
    pub coalesce: Duration,
    /// Most orders in a message.
    pub max_orders_per_wake: usize,
    /// Attempts before parking.
    pub max_attempts: u32,
    /// First backoff.
    pub retry_base: Duration,
    /// Furthest deadline that a message may name.
    pub max_window: Duration,
    /// Unacknowledged messages of the process queue.
    pub prefetch: u16,
    /// Orders in hand.
    pub max_held: usize,
    /// Orders per transaction.
    pub close_batch: usize,
    /// Transactions at one time.
    pub close_concurrency: usize,
    /// Pool size.
    pub database_connections: u32,
    /// Idle wait of the relay.
    pub relay_poll: Duration,
    /// Outbox rows per round.
    pub relay_batch: i64,
    /// Period of the sweep.
    pub sweep_every: Duration,
    /// What the sweep leaves to the wakes.
    pub sweep_grace: Duration,
    /// Period of the probes.
    pub probe_every: Duration,
    /// Retry in place while the database is away.
    pub outage_patience: Duration,
    /// Bound of every broker call.
    pub confirm_timeout: Duration,
    /// Bound of a soft stop.
    pub drain_timeout: Duration,
    /// Whether `run` declares the topology.
    pub declare_topology: bool,
}

impl Config {
    /// Types and checks every setting.
    ///
    /// # Errors
    /// Names the first setting that cannot be used, where its value came from, and what to write instead.
    pub fn from_raw(raw: &Raw) -> Result<Self, SettingError> {
        let amqp_nodes = raw.parse("amqp_url", amqp_nodes)?;
        let database_url = raw.parse("database_url", |v| url(v, &["postgres", "postgresql"]))?;
        let from_url = driver(&database_url).map_err(|problem| raw.wrong("database_url", problem))?;
        let config = Self {
            schema: raw.parse("schema", |value| schema(value, from_url.get_options()))?,
            database_url,
            management_url: raw.parse("management_url", |v| management(v, amqp_nodes.first()))?,
            amqp_nodes,
            prefix: raw.parse("prefix", prefix)?,
            lanes: lanes(raw)?,
            coalesce: raw.parse("coalesce", coalesce)?,
            max_orders_per_wake: whole(raw, "max_orders_per_wake", 1, 1_000)?,
            max_attempts: whole(raw, "max_attempts", 1, 1_000)?,
            retry_base: positive(raw, "retry_base")?,
            max_window: positive(raw, "max_window")?,
            prefetch: whole(raw, "prefetch", 1, 2_000)?,
            max_held: whole(raw, "max_held", 1, 10_000_000)?,
            close_batch: whole(raw, "close_batch", 1, 10_000)?,
            close_concurrency: whole(raw, "close_concurrency", 1, 64)?,
            database_connections: whole(raw, "database_connections", 1, 200)?,
            relay_poll: positive(raw, "relay_poll")?,
            relay_batch: whole(raw, "relay_batch", 1, 10_000)?,
            sweep_every: positive(raw, "sweep_every")?,
            sweep_grace: raw.parse("sweep_grace", duration)?,
            probe_every: positive(raw, "probe_every")?,
            outage_patience: raw.parse("outage_patience", duration)?,
            confirm_timeout: positive(raw, "confirm_timeout")?,
            drain_timeout: raw.parse("drain_timeout", duration)?,
            declare_topology: raw.parse("declare_topology", truth)?,
        };
        // One each for the relay, the sweep, the watch and the clock; a slot without a connection would look like an outage.
        let least = config.close_concurrency + 4;
        if least > config.database_connections as usize {
            let problem = format!("must be at least close_concurrency + 4 = {least}");
            return Err(raw.wrong("database_connections", problem));
        }
        Ok(config)
    }

    /// Messages of the process queue that a pod is given ahead: `prefetch`, or fewer when each may name many orders. What
    /// it has been given it must finish before it can stop without a redelivery. The floor keeps thin messages flowing.
    #[must_use]
    pub fn messages_ahead(&self) -> u16 {
        const FLOOR: usize = 250;
        let enough = (self.max_held / self.max_orders_per_wake).max(FLOOR);
        self.prefetch.min(u16::try_from(enough).unwrap_or(u16::MAX))
    }

    /// The database's URL as the driver understands it.
    ///
    /// # Errors
    /// Says which part of the URL the driver refuses.
    pub fn database_options(&self) -> Result<PgConnectOptions, String> {
        driver(&self.database_url)
    }
}

fn driver(url: &SecretUrl) -> Result<PgConnectOptions, String> {
    PgConnectOptions::from_str(url.reveal().as_str()).map_err(|error| error.to_string())
}

fn lanes(raw: &Raw) -> Result<Lanes, SettingError> {
    let (lead, tolerance) = (raw.parse("lead", duration)?, raw.parse("lane_tolerance", duration)?);
    Lanes::new(raw.text("lanes")?, lead, tolerance).map_err(|problem| raw.wrong("lanes", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(said: &[(&'static str, &str)]) -> Result<Config, String> {
        let mut all =
            vec![("database_url", "postgres://u:secret@db/shop"), ("amqp_url", "amqp://u:secret@mq/%2f")];
        all.extend_from_slice(said);
        let raw = Raw::with(&all).map_err(|error| error.to_string())?;
        Config::from_raw(&raw).map_err(|error| error.to_string())
    }

    #[test]
    fn every_wrong_value_is_refused_with_the_name_of_its_setting() {
        for (name, value, expected) in [
            ("database_url", "shop", "not a URL"),
            ("database_url", "mysql://u@h/x", "begins with `mysql:`"),
            ("database_url", "postgres:///shop", "has no host"),
            ("database_url", "postgres://u@h/shop?options=-csearch_path%3Da%2Cb", "names several schemas"),
            ("amqp_url", "amqp://a/%2f,http://b", "begins with `http:`"),
            ("management_url", "amqp://a", "begins with `amqp:`"),
            ("prefix", "two words", "cannot be used"),
            ("prefix", "amq.", "cannot be used"),
            ("lanes", "1s,fast", "`fast` is not a length"),
            ("lead", "soon", "`soon` is not a time"),
            ("coalesce", "-1s", "is not a time"),
            ("lead", "2000years", "longer than a thousand years"),
            ("confirm_timeout", "2000years", "longer than a thousand years"),
            ("max_orders_per_wake", "0", "from 1 to 1000"),
            ("prefetch", "2001", "from 1 to 2000"),
            ("relay_poll", "0s", "longer than zero"),
            ("coalesce", "5s", "longer than 1s"),
            ("database_connections", "4", "at least close_concurrency + 4 = 6"),
            ("declare_topology", "yes", "neither `true` nor `false`"),
        ] {
            let error = config(&[(name, value)]).expect_err(name);
            assert!(
                error.contains(&format!("`{name}`")) && error.contains(expected),
                "{name}={value}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn fewer_messages_are_taken_ahead_where_each_may_name_many_orders() {
        for (prefetch, orders_per_wake, ahead) in
            [("1000", "100", 250), ("100", "100", 100), ("1000", "20", 1_000), ("1000", "40", 500)]
        {
            let config = config(&[
                ("prefetch", prefetch),
                ("max_orders_per_wake", orders_per_wake),
                ("max_held", "20000"),
            ]);
            assert_eq!(
                config.expect("a configuration").messages_ahead(),
                ahead,
                "{prefetch} {orders_per_wake}"
            );
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let config = config(&[]).expect("a configuration");
        let printed = format!("{config:?} {}", config.database_url);
        assert!(!printed.contains("secret") && printed.contains("***"), "{printed}");
    }

    #[test]
    fn several_nodes_and_the_derived_management_address() {
        let config = config(&[("amqp_url", "amqp://u:p@a:1/v, amqps://u:p@b/v")]).expect("a configuration");
        assert_eq!(config.amqp_nodes.len(), 2);
        assert_eq!(config.management_url.reveal().as_str(), "http://u:p@a:15672/");
    }
}
