//! Each trouble that somebody can have with the broker is really caused, and the error names its reason, the setting, and
//! what to do; and not a remedy of another trouble.

use std::time::Duration;

use lapin::ConnectionProperties;
use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

use crate::harness::{NOBODY, Terminator, World, address, at, with_path};

#[tokio::test]
async fn of_a_broker_that_cannot_be_reached() {
    World::with(async |world| {
        let declare = ["topology", "declare", "--broker-timeout", "2s", "--amqp-url"];
        let fails = async |url: &str, words: &[&str], untrue: &[&str]| {
            world.fails(&[&declare[..], &[url]].concat(), words, untrue).await;
        };
        let broker = address(&world.amqp_url);
        fails(
            &at(&world.amqp_url, "amqp", NOBODY),
            &[NOBODY, "Connection refused", "RabbitMQ runs there"],
            &[],
        )
        .await;
        let unknown = at(&world.amqp_url, "amqp", "nowhere.invalid:5672");
        fails(&unknown, &["its name cannot be resolved"], &["RabbitMQ runs there"]).await;
        let plain = at(&world.amqp_url, "amqps", &broker);
        fails(&plain, &["does not speak TLS", "write amqp://", "5671"], &["RabbitMQ runs there"]).await;
        let tls = Terminator::before(&world.amqp_url, &world.name).await;
        let encrypted = at(&world.amqp_url, "amqp", &address(&tls.url));
        fails(&encrypted, &["amqps://"], &["ParserErrors", "RabbitMQ runs there"]).await;
        let database = at(&world.amqp_url, "amqp", &address(&world.database_url));
        fails(&database, &["check the port", "amqps://"], &["RabbitMQ runs there"]).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = silent.local_addr().expect("an address").to_string();
        fails(
            &at(&world.amqp_url, "amqp", &place),
            &[&place, "no answer from the broker within 2s", "port"],
            &[],
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn of_a_broker_that_refuses() {
    World::with(async |world| {
        let vhost = world.name.as_str();
        let limited = world.limited_user(".*", ".*", ".*").await;
        let user = format!("{vhost}_limited");
        let declare = |url: &str| ["topology", "declare", "--amqp-url", url].map(str::to_owned);
        let refused = async |url: &str, words: &[&str], untrue: &[&str]| {
            world.fails(&declare(url).each_ref().map(String::as_str), words, untrue).await;
        };
        let limit = async |kind: &str, of: &str, what: &str, value: u32| {
            world.management.put(&[kind, of, what], json!({"value": value})).await;
        };
        let unlimit =
            async |kind: &str, of: &str, what: &str| world.management.delete(&[kind, of, what]).await;

        world
            .management
            .put(&["exchanges", vhost, "order.exchange"], json!({"type": "direct", "durable": true}))
            .await;
        let words =
            ["declaring exchange order.exchange", "it exists with other arguments", "topology verify"];
        refused(&world.amqp_url, &words, &["queue"]).await;
        let (code, found, _) = world.run(&["topology", "verify"]).await;
        let line = found.lines().find(|line| line.starts_with("order.exchange")).expect("its line");
        assert!(
            code == 4 && line.contains("delete it") && !line.contains("let the queue run empty"),
            "{line}"
        );
        world.management.delete(&["exchanges", vhost, "order.exchange"]).await;

        limit("vhost-limits", vhost, "max-queues", 2).await;
        refused(&world.amqp_url, &["allows no more queues", "queue limit", "lanes"], &["other arguments"])
            .await;
        unlimit("vhost-limits", vhost, "max-queues").await;
        limit("vhost-limits", vhost, "max-connections", 0).await;
        refused(
            &world.amqp_url,
            &["connection limit (0) is reached", "raise that limit"],
            &["RabbitMQ runs", "refused the vhost"],
        )
        .await;
        unlimit("vhost-limits", vhost, "max-connections").await;
        limit("user-limits", &user, "max-connections", 0).await;
        refused(
            &limited,
            &["user connection limit (0)", "raise that limit"],
            &["RabbitMQ runs", "refused the login"],
        )
        .await;
        unlimit("user-limits", &user, "max-connections").await;
        limit("user-limits", &user, "max-channels", 0).await;
        refused(&limited, &["number of channels", "raise that limit"], &["RabbitMQ runs"]).await;
        unlimit("user-limits", &user, "max-channels").await;

        world.declare().await;
        let publish = ["publish", "1", "--in", "5s", "--amqp-url"];
        let limited = world.limited_user(".*", "^$", ".*").await;
        let words = ["permission denied", "rabbitmq/README.md"];
        world.fails(&[&publish[..], &[&limited]].concat(), &words, &["declare_topology"]).await;
        refused(&limited, &["permission denied", "declare_topology"], &[]).await;
        let run = ["run", "--declare-topology", "false", "--roles", "intake", "--amqp-url"];
        let limited = world.limited_user("^$", ".*", "^$").await;
        world.fails(&[&run[..], &[&limited]].concat(), &words, &["declare_topology"]).await;

        let nowhere = with_path(&world.amqp_url, "nowhere");
        refused(&nowhere, &["refused the vhost", "vhost nowhere not found"], &["login"]).await;
    })
    .await;
}

#[tokio::test]
async fn of_a_management_api_that_refuses() {
    World::with(async |world| {
        let own = std::env::var("OVERDUE_MANAGEMENT_URL").expect("OVERDUE_MANAGEMENT_URL");
        let own = address(&own);
        let user =
            Url::parse(&world.limited_user(".*", ".*", ".*").await).expect("a URL").username().to_owned();
        let verify = async |url: &str, words: &[&str], untrue: &[&str]| {
            world.fails(&["topology", "verify", "--management-url", url], words, untrue).await;
        };
        let wrong = format!("http://{user}:wrong@{own}");
        verify(&wrong, &["check user and password"], &["tag", "wrong@"]).await;
        let right = format!("http://{user}:limited@{own}");
        verify(&right, &["needs the tag `monitoring`"], &["password"]).await;
        let tagged = json!({"password": "limited", "tags": "management"});
        world.management.put(&["users", &user], tagged).await;
        world.management.delete(&["permissions", &world.name, &user]).await;
        verify(&right, &["permissions", "vhost"], &["password", "tag"]).await;
        verify(&format!("https://{user}:limited@{own}"), &["write http://"], &["rabbitmq-plugins"]).await;
        let broker = address(&world.amqp_url);
        verify(&format!("http://{user}:limited@{broker}"), &["15672"], &["rabbitmq-plugins"]).await;
        verify(&format!("http://{user}:limited@{NOBODY}"), &["rabbitmq-plugins"], &[]).await;
    })
    .await;
}

#[tokio::test]
async fn an_address_that_accepts_and_is_silent_does_not_hide_the_next() {
    World::with(async |world| {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good = address(&world.amqp_url).parse().expect("an address");
        let addresses = [silent.local_addr().expect("an address"), good];
        let uri = world.amqp_url.parse().expect("a URI");
        let patience = Duration::from_secs(10);
        let link =
            overdue::broker::connect_to_one_of(&addresses, uri, ConnectionProperties::default(), patience)
                .await;
        overdue::broker::close(&link.expect("in time").expect("connected")).await;
    })
    .await;
}
