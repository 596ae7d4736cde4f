use super::*;

fn config(overrides: &[(&'static str, &str)]) -> Result<Config, String> {
    let mut all =
        vec![("database_url", "postgres://u:secret@db/shop"), ("amqp_url", "amqp://u:secret@mq/%2f")];
    all.extend_from_slice(overrides);
    let raw = Raw::with(&all).map_err(|error| error.to_string())?;
    Config::from_raw(&raw).map_err(|error| error.to_string())
}

#[test]
fn every_wrong_value_is_refused_with_the_name_of_its_setting() {
    for (name, value, expected) in [
        ("database_url", "shop", "not a URL"),
        ("database_url", "mysql://u@h/x", "begins with `mysql:`"),
        ("database_url", "postgres:///shop", "has no host"),
        ("database_url", "postgres://u:secret@a,b/shop", "names several hosts"),
        ("database_url", "postgres://u:secret@h/shop?schema=berlin", "set OVERDUE_SCHEMA=berlin"),
        (
            "database_url",
            "postgres://u:secret@h/shop?options=-c%20search_path%3Da%2Cb",
            "names several schemas",
        ),
        ("schema", "pg_catalog", "belongs to PostgreSQL"),
        ("database_url", "postgres://u:secret@h/shop?pasword=secret", "`pasword` is not a supported"),
        ("database_url", "postgres://u:secret@h/shop?sslmode=full", "sslmode"),
        ("database_url", "postgres://u:secret@h/shop?sslrootcert=/nowhere/ca.pem", "sslrootcert"),
        ("database_url", "postgres://u:a@b/c@h/shop", "percent-encode"),
        (
            "amqp_url",
            "amqp://u:secret@h1,h2/v",
            "amqp://user:password@host1/vhost,amqp://user:password@host2/vhost",
        ),
        ("amqp_url", "amqp://u:s?ecret@h/v", "percent-encode"),
        ("amqp_url", "amqp://u:1#ecret@h/v", "percent-encode"),
        ("amqp_url", "amqp://u:secret@h/a/b", "%2F"),
        ("amqp_url", "amqp://u:secret@h/v?heartbeat=soon", "heartbeat"),
        ("amqp_url", "amqp://a/%2f,http://b", "begins with `http:`"),
        ("management_url", "amqp://a", "begins with `amqp:`"),
        ("prefix", "two words", "cannot be used"),
        ("prefix", "amq.", "cannot be used"),
        ("shop", "two words", "cannot be used"),
        ("lanes", "1s,fast", "`fast` is not a length"),
        ("lead", "soon", "`soon` is not a time"),
        ("coalesce", "-1s", "is not a time"),
        ("lead", "2000years", "longer than a thousand years"),
        ("broker_timeout", "2000years", "longer than a thousand years"),
        ("max_orders_per_wake", "0", "from 1 to 1000"),
        ("prefetch", "2001", "from 1 to 2000"),
        ("relay_poll", "0s", "longer than zero"),
        ("coalesce", "5s", "longer than 1s"),
        ("lead", "2s", "the shortest lane, `1s`, must be longer than lead"),
        ("lane_tolerance", "900ms", "must be longer than lead and lane_tolerance together"),
        ("lane_tolerance", "300ms", "lane_tolerance (300ms) must not exceed the lead (250ms)"),
        ("database_connections", "4", "at least close_concurrency + 5 = 7"),
        ("database_pooler", "maybe", "neither `auto` nor `always`"),
        ("close_rate", "-1", "from 0 to 10000000"),
        ("pace", "300ms", "at most half of sweep_grace (500ms)"),
        ("declare_topology", "yes", "neither `true` nor `false`"),
    ] {
        let error = config(&[(name, value)]).expect_err(name);
        assert!(error.contains(&format!("`{name}`")) && error.contains(expected), "{name}={value}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_batch_is_at_most_a_tenth_of_a_seconds_orders() {
    for (rate, batch) in [("0", 75), ("5", 1), ("100", 10), ("749", 74), ("10000", 75)] {
        assert_eq!(config(&[("close_rate", rate)]).expect("a configuration").close_batch, batch, "{rate}");
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
            ("max_in_flight_orders", "20000"),
        ]);
        assert_eq!(config.expect("a configuration").messages_ahead(), ahead, "{prefetch} {orders_per_wake}");
    }
}

#[test]
fn a_short_lead_is_enough_said() {
    for lead in ["100ms", "0s"] {
        config(&[("lead", lead)]).expect("the tolerance follows");
    }
    let both = config(&[("lead", "100ms"), ("lane_tolerance", "200ms")]).expect_err("two wishes");
    assert!(both.contains("`lane_tolerance`"), "{both}");
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

#[test]
fn a_slash_after_the_host_means_the_default_vhost() {
    let vhost = |amqp_url| {
        let config = config(&[("amqp_url", amqp_url)]).expect("a configuration");
        let uri: lapin::uri::AMQPUri = config.amqp_nodes[0].reveal().as_str().parse().expect("a URI");
        uri.vhost
    };
    for default in
        ["amqp://u:p@h:5672/", "amqp://u:p@h:5672", "amqp://u:p@h/%2f", "amqp://u:p@h/?heartbeat=5"]
    {
        assert_eq!(vhost(default), "/", "{default}");
    }
    assert_eq!(vhost("amqp://u:p@h/shop"), "shop");
}

#[test]
fn the_shop_is_named_by_its_prefix_unless_it_has_a_name() {
    for (prefix, shop, expected) in
        [("", "", ""), ("berlin.", "", "berlin"), ("berlin.", "paris-2", "paris-2"), ("", "x", "x")]
    {
        let config = config(&[("prefix", prefix), ("shop", shop)]).expect("a configuration");
        assert_eq!(config.shop, expected, "{prefix} {shop}");
    }
}
