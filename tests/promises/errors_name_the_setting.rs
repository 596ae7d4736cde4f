//! Whoever sets Overdue up wrongly is told which setting is wrong and what to do, and no password is printed.

use url::Url;

use crate::harness::{World, with_path};

/// Nothing listens on the discard port.
const NOBODY_DATABASE: &str = "postgres://nobody:hushhush@127.0.0.1:9/none";
const NOBODY_BROKER: &str = "amqp://nobody:hushhush@127.0.0.1:9/none";

fn with_password(url: &str, password: &str) -> String {
    let mut url = Url::parse(url).expect("a URL");
    url.set_password(Some(password)).expect("a URL with a password");
    url.into()
}

/// Runs a command that must fail with this code and say all of these words, and no password.
async fn fails(world: &World, arguments: &[&str], code: i32, words: &[&str]) {
    let (got, out, error) = world.run(arguments).await;
    assert_eq!(got, code, "{arguments:?}: {out} {error}");
    for word in words {
        assert!(error.contains(word), "{arguments:?} does not say `{word}`: {error}");
    }
    assert!(!error.contains("hushhush"), "{arguments:?} prints the password: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[tokio::test]
async fn an_address_that_does_not_work_is_named_with_its_setting() {
    World::with(async |world| {
        let (database, broker) = (world.database_url.as_str(), world.amqp_url.as_str());
        let wrong_database = with_password(database, "hushhush");
        let wrong_broker = with_password(broker, "hushhush");
        let no_database = with_path(database, "no_such_database");
        let no_vhost = with_path(broker, "no_such_vhost");
        let show = ["order", "show", "1", "--database-url"];
        let declare = ["topology", "declare", "--amqp-url"];
        let fails = async |command: &[&str], value: &str, words: &[&str]| {
            fails(world, &[command, &[value]].concat(), 1, words).await;
        };
        fails(&show, NOBODY_DATABASE, &["database_url", "DATABASE_URL", "PostgreSQL runs there"]).await;
        fails(&show, &no_database, &["create the database", "database_url"]).await;
        fails(&show, &wrong_database, &["password", "database_url"]).await;
        fails(&["migrate", "--database-url"], NOBODY_DATABASE, &["database_url", "DATABASE_URL"]).await;
        fails(&["run", "--database-url"], &wrong_database, &["password", "database_url"]).await;
        fails(&["run", "--database-url"], &no_database, &["create the database", "database_url"]).await;
        fails(
            &declare,
            NOBODY_BROKER,
            &["cannot connect to the broker at amqp://nobody:***@127.0.0.1:9/none", "amqp_url"],
        )
        .await;
        fails(&declare, &wrong_broker, &["refused the login", "amqp_url"]).await;
        fails(&declare, &no_vhost, &["refused the vhost", "amqp_url"]).await;
        fails(&["run", "--amqp-url"], &wrong_broker, &["refused the login", "amqp_url"]).await;
        fails(&["run", "--amqp-url"], &no_vhost, &["refused the vhost", "amqp_url"]).await;
        let verify = ["topology", "verify", "--management-url"];
        fails(&verify, "http://nobody:hushhush@127.0.0.1:9/", &["management_url", "rabbitmq_management"])
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_named_with_where_it_came_from() {
    World::with(async |world| {
        fails(
            world,
            &["run", "--lead", "soon"],
            2,
            &["`lead`", "from the command line", "`soon` is not a time"],
        )
        .await;
        fails(world, &["run", "--lanes", "1s,fast"], 2, &["`lanes`", "`fast`"]).await;
        fails(world, &["run", "--log", "overdue=loud"], 2, &["`log`"]).await;
        fails(world, &["run", "--log-format", "xml"], 2, &["`log_format`", "neither `text` nor `json`"])
            .await;
        fails(
            world,
            &["run", "--roles", "relay,tea"],
            2,
            &["the roles are relay, intake, close, sweep and watch"],
        )
        .await;
        fails(
            world,
            &["run", "--database-url", "mysql://u:hushhush@h/x"],
            2,
            &["`database_url`", "begins with `mysql:`"],
        )
        .await;
        fails(
            world,
            &["order", "place", "--user", "1", "--item", "1:1", "--item", "1:2"],
            2,
            &["product 1 twice"],
        )
        .await;
        fails(world, &["order", "plaice"], 2, &["plaice"]).await;
        fails(world, &["publish", "1", "--in", "100d", "--form", "bare"], 2, &["49 days"]).await;

        let file = std::env::temp_dir().join(format!("{}.toml", world.name));
        let path = file.to_str().expect("a path");
        std::fs::write(&file, "leed = \"1ms\"\n").expect("written");
        fails(world, &["run", "--config", path], 2, &["`leed` is not a setting", path]).await;
        std::fs::write(&file, "prefetch = 5000\n").expect("written");
        fails(world, &["run", "--config", path], 2, &["`prefetch`", path, "from 1 to 2000"]).await;
        std::fs::remove_file(&file).expect("removed");
        fails(world, &["run", "--config", path], 2, &["configuration file", path]).await;

        let unset =
            world.command(&["order", "show", "1"]).env_remove("DATABASE_URL").output().await.expect("it ran");
        assert_eq!(unset.status.code(), Some(2));
        let error = String::from_utf8(unset.stderr).expect("UTF-8");
        assert!(
            error.contains("`database_url` has no value: set DATABASE_URL, give --database-url"),
            "{error}"
        );
        let wrong = world.command(&["run"]).env("OVERDUE_PREFETCH", "many").output().await.expect("it ran");
        let error = String::from_utf8(wrong.stderr).expect("UTF-8");
        assert!(error.contains("`prefetch` (from the environment)"), "{error}");
        let slip =
            world.command(&["order", "show", "1"]).env("OVERDUE_LANE", "1s").output().await.expect("it ran");
        let error = String::from_utf8(slip.stderr).expect("UTF-8");
        assert_eq!(slip.status.code(), Some(2), "{error}");
        assert!(error.contains("OVERDUE_LANE is not a setting: did you mean OVERDUE_LANES?"), "{error}");
        for (setting, url) in [
            ("--amqp-url", "amqp://user:p@hushhush/word@host"),
            ("--database-url", "postgres://user:p@hushhush/word@host"),
            ("--management-url", "http://user:p@hushhush/word@host"),
        ] {
            fails(world, &["run", setting, url], 2, &["percent-encode"]).await;
            // In the wrong place.
            fails(world, &["run", url], 2, &["unexpected argument"]).await;
            fails(world, &["run", "--prefix", url], 2, &["`prefix`"]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_database_that_was_not_migrated_is_told_how_to_be() {
    World::with(async |world| {
        world.sql("CREATE SCHEMA empty").await;
        let empty = format!("{}?options=-c%20search_path%3Dempty", world.database_url);
        for command in [&["run"][..], &["order", "show", "1"], &["sweep"], &["sweep", "--dry-run"]] {
            fails(world, &[command, &["--database-url", &empty]].concat(), 1, &["run `overdue migrate`"])
                .await;
        }
        let (code, _, error) = world.run(&["migrate", "--database-url", &empty]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        fails(world, &["order", "show", "1", "--database-url", &empty], 3, &["there is no order 1"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_user_who_may_not_configure_is_told_so_and_works_where_somebody_else_declares() {
    World::with(async |world| {
        let limited = world.limited_user("^$", ".*", ".*").await;
        let url = ["--amqp-url", &limited];
        fails(
            world,
            &[&["run"][..], &url].concat(),
            1,
            &["permission denied", "declare_topology", "rabbitmq/README.md"],
        )
        .await;
        fails(
            world,
            &[&["topology", "declare"][..], &url].concat(),
            1,
            &["declaring exchange order.exchange", "permission denied"],
        )
        .await;

        world.declare().await;
        let pod = world.process(&[&["--declare-topology", "false"][..], &url].concat());
        let order = world.place(std::time::Duration::from_secs(1), &[]).await;
        world.closed(order).await;
        pod.stopped().await;

        // A service needs nothing but the permission to write to the exchange.
        let publisher = world.limited_user("^$", "^order\\.exchange$", "^$").await;
        let (code, _, error) = world.run(&["publish", "1", "--in", "1s", "--amqp-url", &publisher]).await;
        assert_eq!((code, error.as_str()), (0, ""));
    })
    .await;
}
