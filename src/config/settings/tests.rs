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
fn a_missing_value_names_the_setting_and_every_way_to_set_it() {
    let raw = Raw::with(&[]).expect("settings");
    let error = raw.text("database_url").expect_err("missing").to_string();
    assert!(error.contains("DATABASE_URL") && error.contains("--database-url"), "{error}");
}
