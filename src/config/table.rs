//! Every setting, with its default and its help.

#[derive(Debug)]
pub struct Setting {
    /// The file's key; the flag is the same with dashes.
    pub name: &'static str,
    pub env: &'static str,
    /// The value when flag, environment and file give none; `None` where no default is possible.
    pub default: Option<&'static str>,
    /// What it does, with its unit.
    pub help: &'static str,
}

/// Settings that may hold a password. The value may also be in a file, which the variable with `_FILE` at its end names: that is
/// how Docker and Kubernetes hand out secrets.
pub const SECRETS: [&str; 3] = ["database_url", "amqp_url", "management_url"];

impl Setting {
    /// The variable that names the file with the value.
    #[must_use]
    pub fn file_env(&self) -> Option<String> {
        SECRETS.contains(&self.name).then(|| format!("{}_FILE", self.env))
    }
}

/// Every setting, in the order in which a new user meets them.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    Setting { name: "database_url", env: "DATABASE_URL", default: None,
        help: "PostgreSQL 14 or newer, e.g. postgres://user:password@host/shop" },
    Setting { name: "schema", env: "OVERDUE_SCHEMA", default: Some(""),
        help: "schema of the shop's tables; empty: the search_path in database_url, or public" },
    Setting { name: "amqp_url", env: "AMQP_URL", default: None,
        help: "RabbitMQ 3.10 or newer, e.g. amqp://user:password@host/vhost; amqps: for TLS; several nodes: whole URLs, separated by commas" },
    Setting { name: "management_url", env: "OVERDUE_MANAGEMENT_URL", default: Some(""),
        help: "management API of RabbitMQ, for `verify` and the watch; empty: port 15672 of the broker's host, with the broker's user" },
    Setting { name: "prefix", env: "OVERDUE_PREFIX", default: Some(""),
        help: "prefix of every exchange and queue name, e.g. `berlin.`, so that several shops share a broker" },
    Setting { name: "shop", env: "OVERDUE_SHOP", default: Some(""),
        help: "shop's name in the source of its events, `/overdue/<shop>`; empty: the prefix without its last dot" },
    Setting { name: "lanes", env: "OVERDUE_LANES", default: Some("1s,2s,5s,10s,30s,1m,2m,5m,10m,15m,30m,1h,2h,6h,12h,24h,3d,7d"),
        help: "delay lanes, one queue each (ms, s, m, h, d); add the payment windows that the shop uses, and keep a short one" },
    Setting { name: "lead", env: "OVERDUE_LEAD", default: Some("250ms"),
        help: "how long before its deadline a wake reaches a pod, which holds it until then" },
    Setting { name: "lane_tolerance", env: "OVERDUE_LANE_TOLERANCE", default: Some("200ms"),
        help: "how much less than a lane's length may remain for a wake to take that lane in one hop; at most `lead`" },
    Setting { name: "coalesce", env: "OVERDUE_COALESCE", default: Some("100ms"),
        help: "orders of one lane whose deadlines lie within this time share a message; at most 1s" },
    Setting { name: "max_orders_per_wake", env: "OVERDUE_MAX_ORDERS_PER_WAKE", default: Some("200"),
        help: "maximum orders in one message (1 to 1000); 1 is one message per order" },
    Setting { name: "max_attempts", env: "OVERDUE_MAX_ATTEMPTS", default: Some("8"),
        help: "attempts to close an order before it is parked (1 to 1000)" },
    Setting { name: "retry_base", env: "OVERDUE_RETRY_BASE", default: Some("1s"),
        help: "wait before the second attempt; doubled for each one after it, at most 1h" },
    Setting { name: "max_window", env: "OVERDUE_MAX_WINDOW", default: Some("366d"),
        help: "messages with a deadline further ahead than this are parked as malformed" },
    Setting { name: "prefetch", env: "OVERDUE_PREFETCH", default: Some("1000"),
        help: "maximum unacknowledged messages per pod (1 to 2000); the effective limit is min(prefetch, max(250, max_in_flight_orders / max_orders_per_wake)), 250 with the defaults" },
    Setting { name: "max_in_flight_orders", env: "OVERDUE_MAX_IN_FLIGHT_ORDERS", default: Some("20000"),
        help: "maximum orders that a pod holds; beyond it the pod takes no more messages" },
    Setting { name: "close_batch", env: "OVERDUE_CLOSE_BATCH", default: Some("75"),
        help: "maximum orders closed in one transaction (1 to 10000); with close_rate, at most a tenth of it" },
    Setting { name: "close_concurrency", env: "OVERDUE_CLOSE_CONCURRENCY", default: Some("2"),
        help: "maximum concurrent closing transactions of a pod (1 to 64); for batches of 50 orders and more, of all pods together" },
    Setting { name: "close_rate", env: "OVERDUE_CLOSE_RATE", default: Some("0"),
        help: "maximum orders closed in a second by all pods together, so that a flood of due orders leaves the database to buyers; 0: no limit" },
    Setting { name: "pace", env: "OVERDUE_PACE", default: Some("0s"),
        help: "orders are closed in steps of this length, up to that much late, which costs less processor time; 0s: each at its deadline" },
    Setting { name: "database_connections", env: "OVERDUE_DATABASE_CONNECTIONS", default: Some("9"),
        help: "maximum connections in a pod's pool, at least close_concurrency + 5; a pod uses 2 × close_concurrency + 2 more, and two more at times" },
    Setting { name: "database_pooler", env: "OVERDUE_DATABASE_POOLER", default: Some("auto"),
        help: "`auto`: a pooler such as PgBouncer is recognized by refusing or dropping start-up parameters; `always`: one that passes them on" },
    Setting { name: "relay_poll", env: "OVERDUE_RELAY_POLL", default: Some("50ms"),
        help: "how often the relay looks for new wakes when it has caught up; it looks for events a fourth as often" },
    Setting { name: "relay_batch", env: "OVERDUE_RELAY_BATCH", default: Some("500"),
        help: "maximum outbox rows that the relay publishes before it deletes them (1 to 10000)" },
    Setting { name: "sweep_every", env: "OVERDUE_SWEEP_EVERY", default: Some("400ms"),
        help: "how often each pod looks for orders that no wake closed; more often while wakes are missing" },
    Setting { name: "sweep_grace", env: "OVERDUE_SWEEP_GRACE", default: Some("500ms"),
        help: "how long after its deadline an order is left to its wake before the sweep takes it" },
    Setting { name: "probe_every", env: "OVERDUE_PROBE_EVERY", default: Some("30s"),
        help: "how often a probe is sent through a lane, to notice a lane that does not deliver" },
    Setting { name: "outage_retry_for", env: "OVERDUE_OUTAGE_RETRY_FOR", default: Some("2s"),
        help: "how long closing is retried in place while the database is away, before messages are requeued" },
    Setting { name: "broker_timeout", env: "OVERDUE_BROKER_TIMEOUT", default: Some("5s"),
        help: "longest wait for an answer from the broker: connecting, declaring, publisher confirms" },
    Setting { name: "drain_timeout", env: "OVERDUE_DRAIN_TIMEOUT", default: Some("10s"),
        help: "longest drain after SIGTERM, SIGINT or SIGHUP; what is left then goes back to the queue" },
    Setting { name: "declare_topology", env: "OVERDUE_DECLARE_TOPOLOGY", default: Some("true"),
        help: "whether `run` declares exchanges and queues; `false` needs no configure permission" },
    Setting { name: "log", env: "OVERDUE_LOG", default: Some("info,lapin=off"),
        help: "log filter: error, warn, info, debug, or per module; lapin's own log is off, because Overdue reports the same errors with their remedy" },
    Setting { name: "log_format", env: "OVERDUE_LOG_FORMAT", default: Some("text"),
        help: "`text` for people, `json` for collectors" },
];
