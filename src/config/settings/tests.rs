use super::*;

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let dir = std::env::temp_dir().join(format!("overdue-settings-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join("overdue.toml");
    std::fs::write(&path, "lead = \"1ms\"\nprefetch = 3\nmax_in_flight_orders = 4\n").expect("a file");
    let flag = |name: &str| (name == "lead").then(|| "3ms".to_owned());
    let env = |name: &str| match name {
        "OVERDUE_LEAD" | "OVERDUE_PREFETCH" => Some("2".to_owned()),
        "OVERDUE_MAX_IN_FLIGHT_ORDERS" => Some(String::new()),
        _ => None,
    };
    let raw = Raw::collect(flag, env, Some(&path)).expect("settings");
    assert_eq!(raw.text("lead"), Ok("3ms"));
    assert_eq!(raw.text("prefetch"), Ok("2"));
    assert_eq!(raw.text("max_in_flight_orders"), Ok("4"), "an empty variable is not set");
    assert_eq!(raw.text("coalesce"), Ok("100ms"));
    assert!(raw.wrong("max_in_flight_orders", "no").to_string().contains("overdue.toml"));

    std::fs::write(&path, "leed = \"1ms\"").expect("a file");
    let error = Raw::collect(|_| None, |_| None, Some(&path)).expect_err("a slip").to_string();
    assert!(error.contains("`leed` is not a setting"), "{error}");
    std::fs::write(&path, "lead = \"1ms\"\ndatabase_url = postgres://u:hushhush@h/x\n").expect("a file");
    let error = Raw::collect(|_| None, |_| None, Some(&path)).expect_err("no string").to_string();
    assert!(error.contains("line 2") && !error.contains("hushhush"), "{error}");
    std::fs::write(&path, "lead = [1]").expect("a file");
    assert!(Raw::collect(|_| None, |_| None, Some(&path)).is_err());
    std::fs::remove_dir_all(&dir).expect("cleaned up");
}

#[test]
fn a_secret_may_be_in_a_file_that_its_variable_names() {
    let dir = std::env::temp_dir().join(format!("overdue-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join("amqp_url");
    std::fs::write(&path, "amqp://u:hushhush@h/\n").expect("a file");
    let from = |named: &str, value: Option<&str>| {
        let env = |name: &str| match name {
            "AMQP_URL_FILE" => Some(named.to_owned()),
            "AMQP_URL" => value.map(str::to_owned),
            _ => None,
        };
        Raw::collect(|_| None, env, None).map_err(|error| error.to_string())
    };
    let shown = path.display().to_string();
    let raw = from(&shown, None).expect("settings");
    assert_eq!(raw.text("amqp_url"), Ok("amqp://u:hushhush@h/"));
    assert!(raw.wrong("amqp_url", "no").to_string().contains(&shown), "an error names the file");
    assert_eq!(from("", Some("amqp://h")).expect("settings").text("amqp_url"), Ok("amqp://h"));
    let both = from(&shown, Some("amqp://h")).expect_err("two values");
    assert!(both.contains("both AMQP_URL and AMQP_URL_FILE are set"), "{both}");
    let missing = from("/nowhere/amqp_url", None).expect_err("no file");
    assert!(
        missing.contains("`amqp_url`") && missing.contains("AMQP_URL_FILE names the file /nowhere"),
        "{missing}"
    );
    std::fs::write(&path, "\n").expect("a file");
    assert!(from(&shown, None).expect_err("nothing in it").contains("which is empty"));
    std::fs::remove_dir_all(&dir).expect("cleaned up");
}

#[test]
fn a_missing_value_names_the_setting_and_every_way_to_set_it() {
    let raw = Raw::with(&[]).expect("settings");
    let error = raw.text("database_url").expect_err("missing").to_string();
    assert!(error.contains("DATABASE_URL") && error.contains("--database-url"), "{error}");
}
