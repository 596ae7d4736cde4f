//! The topology as a definitions file that RabbitMQ imports, with users that may do just what their part needs.

use serde_json::{Value, json};

use super::{KEY_DELAY, Names, Topology};

/// The definitions, for one vhost.
///
/// The users have no password, so nobody can log in as them until somebody gives them one.
#[must_use]
pub fn definitions(vhost: &str, names: &Names, topology: &Topology) -> Value {
    let user = |name: &str, tags: &str| json!({"name": name, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": tags});
    let permission = |user: &str, configure: &str, write: &str, read: &str| json!({"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read});
    let exchange = literal(&topology.exchange);
    let all = format!("{}.*", literal(&names.stem()));
    let (only_exchange, everything, nothing) = (format!("^{exchange}$"), format!("^{all}$"), "^$");
    let only_delay = format!("^{}$", literal(KEY_DELAY));
    let queues = topology.queues.iter().map(|queue| {
        let arguments: serde_json::Map<_, _> =
            queue.arguments.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({"name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments})
    });
    let bindings = topology.queues.iter().map(|queue| {
        json!({"source": topology.exchange, "vhost": vhost, "destination": queue.name,
               "destination_type": "queue", "routing_key": queue.key, "arguments": {}})
    });
    json!({
        "vhosts": [{"name": vhost}],
        "users": [user("overdue-publisher", ""), user("overdue-service", ""), user("overdue-operator", "monitoring")],
        "permissions": [
            permission("overdue-publisher", nothing, &only_exchange, nothing),
            permission("overdue-service", &everything, &everything, &everything),
            permission("overdue-operator", nothing, nothing, &everything),
        ],
        "topic_permissions": [
            {"user": "overdue-publisher", "vhost": vhost, "exchange": topology.exchange,
             "write": only_delay, "read": nothing},
        ],
        "exchanges": topology.exchanges().map(|name| {
            json!({"name": name, "vhost": vhost, "type": "topic", "durable": true,
                   "auto_delete": false, "internal": false, "arguments": {}})
        }),
        "queues": queues.collect::<Vec<_>>(),
        "bindings": bindings.collect::<Vec<_>>(),
    })
}

/// A name as a regular expression that matches only it.
fn literal(name: &str) -> String {
    name.replace('.', "\\.")
}
