//! Each trouble that somebody can have with database or broker is really caused, and the error names its reason, the
//! setting, and what to do; and not a remedy of another trouble.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

use crate::harness::{Terminator, World, with_path};

/// Runs a command that must fail with 1; it says all of these words, and none of those.
async fn fails(world: &World, arguments: &[&str], words: &[&str], untrue: &[&str]) {
    let (code, out, error) = world.run(arguments).await;
    assert_eq!(code, 1, "{arguments:?}: {out} {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?} does not say `{word}`: {error}");
    }
    for word in untrue {
        assert!(!error.contains(word), "{arguments:?} says `{word}`: {error}");
    }
    assert!(!error.contains("limited@") && !error.contains("panicked"), "{error}");
}

/// Nothing listens on the discard port.
const NOBODY: &str = "127.0.0.1:9";

/// A URL that leads to another address, with another scheme.
fn at(url: &str, scheme: &str, address: &str) -> String {
    let url = Url::parse(url).expect("a URL");
    format!("{scheme}://{}:secret@{address}{}", url.username(), url.path())
}

fn address(url: &str) -> String {
    let url = Url::parse(url).expect("a URL");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}

/// Another role in the world's database, and the database's URL for it.
async fn role(world: &World, options: &str) -> (String, String) {
    let role = format!("{}_role", world.name);
    world.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'limited' {options}")).await;
    let mut url = Url::parse(&world.database_url).expect("a URL");
    url.set_username(&role).expect("a user");
    url.set_password(Some("limited")).expect("a password");
    (role, url.into())
}

async fn drop_role(world: &World, role: &str) {
    world.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn of_a_database_that_cannot_be_reached() {
    World::with(async |world| {
        let show = ["order", "show", "1", "--database-url"];
        let fails = async |url: &str, words: &[&str], untrue: &[&str]| {
            fails(world, &[&show[..], &[url]].concat(), words, untrue).await;
        };
        let pool = ["pool timed out", "connection became free"];
        let closed = at(&world.database_url, "postgres", NOBODY);
        fails(
            &closed,
            &["cannot connect to 127.0.0.1:9: Connection refused", "PostgreSQL runs there"],
            &pool,
        )
        .await;
        let unknown = at(&world.database_url, "postgres", "nowhere.invalid:5432");
        fails(&unknown, &["nowhere.invalid:5432", "its name cannot be resolved"], &["PostgreSQL runs there"])
            .await;
        let broker = at(&world.database_url, "postgres", &address(&world.amqp_url));
        fails(&broker, &["check the port in database_url"], &["PostgreSQL runs there"]).await;
        let encrypted = format!("{}?sslmode=require", world.database_url);
        fails(&encrypted, &["does not support TLS", "sslmode"], &["PostgreSQL runs there"]).await;

        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = silent.local_addr().expect("an address").to_string();
        fails(&at(&world.database_url, "postgres", &place), &[&place, "no answer"], &["refused"]).await;

        let (role, url) = role(world, "CONNECTION LIMIT 0").await;
        let words = ["too many connections for role", "CONNECTION LIMIT", "database_connections"];
        fails(&url, &words, &["PostgreSQL runs there", pool[0]]).await;
        drop_role(world, &role).await;

        let certificate = format!("{}?sslrootcert=/nowhere/ca.pem", world.database_url);
        let (code, _, error) = world.run(&["run", "--database-url", &certificate]).await;
        assert_eq!(code, 2, "{error}");
        assert!(
            error.contains("`database_url`") && error.contains("sslrootcert names the file /nowhere/ca.pem"),
            "{error}"
        );

        // A few more than the runtime needs.
        let binary = world.command(&[]).as_std().get_program().to_str().expect("a path").to_owned();
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &format!("ulimit -n 9; exec {binary} order show 1")]);
        let output = command.env("DATABASE_URL", &world.database_url).output().await.expect("it ran");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(error.contains("Too many open files") && error.contains("LimitNOFILE"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn of_a_database_that_refuses() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA berlin; CREATE SCHEMA own; CREATE TABLE own.orders (id int)").await;
        let path = |url: &str, schema: &str| format!("{url}?options=-c%20search_path%3D{schema}");
        let migrate = ["migrate", "--database-url"];
        let (role, limited) = role(world, "").await;

        let berlin = path(&limited, "berlin");
        let words = ["permission denied for database", "owner of the schema"];
        world.sql("REVOKE CREATE ON SCHEMA berlin FROM PUBLIC").await;
        world.sql(&format!("GRANT USAGE ON SCHEMA berlin TO {role}")).await;
        let words = [words[1], "permission denied for schema berlin", "GRANT CREATE ON SCHEMA"];
        fails(world, &[&migrate[..], &[&berlin]].concat(), &words, &["check user and password"]).await;
        world.sql(&format!("REVOKE USAGE ON SCHEMA berlin FROM {role}")).await;
        let own = path(&world.database_url, "own");
        let words = ["already holds a table `orders`", "is not Overdue's", "a schema of its own"];
        fails(world, &[&migrate[..], &[&own]].concat(), &words, &["check", "line"]).await;

        let (code, _, error) = world.run(&["migrate", "--database-url", &path(&world.database_url, "berlin")]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let show = |url: &str| ["order", "show", "1", "--database-url", url].map(str::to_owned);
        let refused = async |url: &str, words: &[&str], untrue: &[&str]| {
            fails(world, &show(url).each_ref().map(String::as_str), words, untrue).await;
        };
        let usage = format!("GRANT USAGE ON SCHEMA berlin TO {role}");
        refused(&berlin, &["the schema berlin has Overdue's tables", &usage], &["does not exist", "migrate"]).await;
        world.sql(&usage).await;
        let words = ["permission denied for table", "SELECT, INSERT, UPDATE and DELETE"];
        refused(&berlin, &words, &["overdue migrate", "check user"]).await;
        // The tables are there, and elsewhere.
        let elsewhere = path(&world.database_url, "nowhere");
        refused(&elsewhere, &["berlin", "search_path%3D"], &["check user"]).await;
        drop_role(world, &role).await;

        let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", world.database_url);
        let place = ["order", "place", "--user", "1", "--database-url"];
        fails(world, &[&place[..], &[&read_only]].concat(), &["25006", "takes writes"], &["PostgreSQL runs"]).await;
        // What a server says that has no room, or a pooler that changes sessions.
        for (code, expected) in [
            ("53100", "make room"),
            ("53200", "short of resources"),
            ("53300", "max_connections"),
            ("42P05", "pool in session mode"),
            ("26000", "pool in session mode"),
            ("57P03", "starts or stops"),
        ] {
            world
                .sql(&format!(
                    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                     $$BEGIN RAISE 'no' USING ERRCODE = '{code}'; END$$;
                     CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse()"
                ))
                .await;
            fails(world, &place[..4], &[code, expected], &["overdue migrate", "PostgreSQL runs there"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn of_a_broker_that_cannot_be_reached() {
    World::with(async |world| {
        let declare = ["topology", "declare", "--confirm-timeout", "2s", "--amqp-url"];
        let fails = async |url: &str, words: &[&str], untrue: &[&str]| {
            fails(world, &[&declare[..], &[url]].concat(), words, untrue).await;
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
        fails(&at(&world.amqp_url, "amqp", &place), &[&place, "no answer within 2s", "port"], &[]).await;
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
            fails(world, &declare(url).each_ref().map(String::as_str), words, untrue).await;
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
        fails(world, &[&publish[..], &[&limited]].concat(), &words, &["declare_topology"]).await;
        refused(&limited, &["permission denied", "declare_topology"], &[]).await;
        let run = ["run", "--declare-topology", "false", "--roles", "intake", "--amqp-url"];
        let limited = world.limited_user("^$", ".*", "^$").await;
        fails(world, &[&run[..], &[&limited]].concat(), &words, &["declare_topology"]).await;

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
            fails(world, &["topology", "verify", "--management-url", url], words, untrue).await;
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
        let link = overdue::broker::connect_to_one_of(&addresses, uri, Default::default(), patience).await;
        overdue::broker::close(&link.expect("in time").expect("connected")).await;
    })
    .await;
}
