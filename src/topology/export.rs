//! The topology as a definitions file that RabbitMQ imports, with users that have only the permissions they need.

use serde_json::{Value, json};

use super::{Names, Topology};
use crate::wire::keys::KEY_DELAY;

struct User {
    name: String,
    tags: &'static str,
    configure: String,
    write: String,
    read: String,
}

/// The definitions, for one vhost.
///
/// The users have no password, so a login as one of them fails until an administrator sets one. Their names carry the
/// prefix: users belong to the whole broker, and imported permissions replace those that a user has in the vhost.
#[must_use]
pub fn definitions(vhost: &str, names: &Names, topology: &Topology) -> Value {
    let publisher = names.user("publisher");
    let users = users(names, topology);
    let user = |user: &User| {
        json!({"name": user.name, "password_hash": "",
               "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": user.tags})
    };
    let permission = |user: &User| {
        json!({"user": user.name, "vhost": vhost, "configure": user.configure,
               "write": user.write, "read": user.read})
    };
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
        "users": users.iter().map(user).collect::<Vec<_>>(),
        "permissions": users.iter().map(permission).collect::<Vec<_>>(),
        "topic_permissions": [
            {"user": publisher, "vhost": vhost, "exchange": topology.exchange,
             "write": only(KEY_DELAY), "read": NOTHING},
        ],
        "exchanges": topology.exchanges().map(|name| {
            json!({"name": name, "vhost": vhost, "type": "topic", "durable": true,
                   "auto_delete": false, "internal": false, "arguments": {}})
        }),
        "queues": queues.collect::<Vec<_>>(),
        "bindings": bindings.collect::<Vec<_>>(),
    })
}

fn users(names: &Names, topology: &Topology) -> [User; 4] {
    let nothing = || NOTHING.to_owned();
    let (exchange, events) = (literal(&topology.exchange), literal(&topology.events));
    let theirs = format!("{}.*", literal(&names.subscribers()));
    [
        User {
            name: names.user("publisher"),
            tags: "",
            configure: nothing(),
            write: format!("^{exchange}$"),
            read: nothing(),
        },
        // The import creates exchanges and queues, so the service needs no configure permission. The tag lets it ask the
        // management API about what it may use.
        User {
            name: names.user("service"),
            tags: "management",
            configure: nothing(),
            write: format!("^({exchange}|{events})$"),
            read: format!("^{}.*queue$", literal(&names.stem())),
        },
        User {
            name: names.user("subscriber"),
            tags: "",
            configure: format!("^{theirs}$"),
            write: format!("^{theirs}$"),
            read: format!("^({events}|{theirs})$"),
        },
        // No read permission: with it the operator could also consume messages.
        User {
            name: names.user("operator"),
            tags: "monitoring",
            configure: nothing(),
            write: nothing(),
            read: nothing(),
        },
    ]
}

/// The pattern that matches only the empty name.
const NOTHING: &str = "^$";

/// The pattern that matches only this name.
fn only(name: &str) -> String {
    format!("^{}$", literal(name))
}

/// A name with its special characters escaped for a regular expression.
fn literal(name: &str) -> String {
    fancy_regex::escape(name).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lanes::Lanes;

    #[test]
    fn two_shops_in_one_vhost_have_no_user_in_common() {
        let lanes = Lanes::new("1s", Duration::from_millis(250), Duration::ZERO).expect("lanes");
        let users = |prefix: &str| {
            let names = Names::new(prefix);
            let definitions = definitions("/", &names, &Topology::new(&names, &lanes));
            let user = |user: &Value| user["name"].as_str().expect("a name").to_owned();
            let of = |list: &str, key: &str| {
                let list = definitions[list].as_array().expect("a list");
                list.iter().map(|entry| user(&json!({"name": entry[key]}))).collect::<Vec<_>>()
            };
            assert_eq!(of("users", "name"), of("permissions", "user"));
            of("users", "name")
        };
        let berlin = users("berlin.");
        assert_eq!(berlin[1], "berlin.overdue-service");
        assert!(users("munich.").iter().chain(&users("")).all(|user| !berlin.contains(user)));
    }
}
