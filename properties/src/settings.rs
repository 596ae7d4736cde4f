//! A settings file.

use std::time::Duration;

use overdue::config::Config;
use overdue::config::settings::{Raw, SETTINGS};
use overdue::lanes::Lane;
use overdue::topology::{Names, Topology};

use super::message::NOW;

/// The passwords of the URLs that are not in the file; nothing may ever say them.
const SECRET: &str = "hunter2hunter2";

/// `input` is a TOML file.
pub fn holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let known = |name: &str| match name {
        "database_url" => Some(format!("postgres://overdue:{SECRET}@db/shop")),
        "amqp_url" => Some(format!("amqp://overdue:{SECRET}@mq/%2f")),
        _ => None,
    };
    // Where the file names another server, that is the one that is checked.
    let flag = |name: &str| known(name).filter(|_| !text.contains(name));
    let checked = Raw::with_file(flag, |_| None, "overdue.toml", text).and_then(|raw| Config::from_raw(&raw));
    match checked {
        Err(error) => {
            let said = error.to_string();
            let named =
                said.contains("overdue.toml") || SETTINGS.iter().any(|setting| said.contains(setting.name));
            assert!(named, "which setting? {said}");
            assert!(!said.contains(SECRET));
        }
        Ok(config) => usable(&config),
    }
}

/// What was accepted can be worked with.
fn usable(config: &Config) {
    assert!(!format!("{config:?}").contains(SECRET), "it prints without passwords");
    let lanes = config.lanes.as_slice();
    assert!(lanes.windows(2).all(|pair| pair[0].length < pair[1].length));
    for lane in lanes {
        assert_eq!(lane.label.parse::<Lane>().as_ref(), Ok(lane), "a lane reads as it is written");
    }
    let names = Names::new(&config.prefix);
    for queue in &Topology::new(&names, &config.lanes).queues {
        assert!(queue.name.len() <= 255 && queue.key.len() <= 255, "longer than AMQP allows: {}", queue.name);
    }
    // Times that are added up somewhere.
    let times = [
        config.retry_base,
        config.max_window,
        config.relay_poll,
        config.sweep_every,
        config.sweep_grace,
        config.outage_retry_for,
        config.broker_timeout,
        config.drain_timeout,
    ];
    for time in times {
        assert!(time.checked_mul(1_000).is_some() && NOW.minus(time).0 > i64::MIN);
    }
    for seconds in [0, 1, 60, 900, 86_400, 40 * 86_400] {
        let due = NOW.plus(Duration::from_secs(seconds));
        let mut now = NOW;
        // Every hop brings it nearer; with a lane at most 49 days long and at least as long as the lead, in the end.
        for _ in 0..3 {
            use overdue::lanes::Hop;
            let (Hop::Last { wait, .. } | Hop::Stage { wait, .. }) = config.lanes.hop(due, now) else {
                break;
            };
            assert!(wait > Duration::ZERO && now.plus(wait) <= due);
            now = now.plus(wait);
        }
    }
}
