//! `overdue lanes`: whether each delay lane delivers.

use std::time::Duration;

use serde_json::{Value, json};

use super::output::table;
use super::{CliError, Context};
use crate::broker::{self, Broker};
use crate::clock::DbTime;
use crate::database;
use crate::probes::depth::{Depth, depth};
use crate::probes::{self, Health, grace};

struct Line {
    queue: String,
    state: &'static str,
    at: Option<DbTime>,
    depth: Option<Depth>,
}

pub async fn run(context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    let pool = database::pool(&config)?;
    let broker = Broker::new(&config);
    let connection = broker.connect("lanes").await?;
    let (now, all) = probes::read(&pool).await?;
    let process = broker.names.process();
    let arrived = depth(&broker, &connection, &process).await;
    // Probes wait behind wakes for a pod, so a late probe does not mean that its lane is stuck.
    let behind = arrived.is_some_and(|depth| depth.messages > 0);
    let mut lines = Vec::new();
    for lane in config.lanes.as_slice() {
        let queue = broker.names.lane(lane);
        let ours: Vec<_> = all.iter().filter(|probe| probe.queue == queue).collect();
        let (state, at) = match probes::health(&ours, now, grace(&config)) {
            Health::Well { at } => ("ok", Some(at)),
            Health::Waiting { until } => ("waiting", Some(until)),
            Health::Stuck { since } if behind => ("behind", Some(since)),
            Health::Stuck { since } => ("stuck", Some(since)),
            Health::CutOff { since } => ("cut off", Some(since)),
            Health::Unknown => ("unknown", None),
        };
        let depth = depth(&broker, &connection, &queue).await;
        lines.push(Line { queue, state: if depth.is_none() { "missing" } else { state }, at, depth });
    }
    let state = match arrived {
        None => "missing",
        Some(Depth { messages: 0, .. }) => "ok",
        Some(Depth { consumers: 0, .. }) => "stuck",
        Some(_) => "behind",
    };
    lines.push(Line { queue: process, state, at: None, depth: arrived });
    broker::close(&connection).await;

    let text = || {
        table(
            &["queue", "state", "", "messages"],
            &lines.iter().map(|line| row(line, now)).collect::<Vec<_>>(),
        )
    };
    context.out.show(text, lines.iter().map(value).collect::<Vec<_>>());
    match lines.iter().filter(|line| ["stuck", "cut off", "missing"].contains(&line.state)).count() {
        0 => Ok(()),
        stuck => Err(CliError::Stuck(stuck)),
    }
}

fn row(line: &Line, now: DbTime) -> Vec<String> {
    let seconds = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    let about = match (line.state, line.at) {
        ("ok", Some(at)) => format!("a probe came through {} ago", seconds(now.since(at))),
        ("waiting", Some(until)) => format!("its first probe is due in {}", seconds(until.since(now))),
        ("stuck", Some(since)) => {
            format!("messages stay after their expiry for {}", seconds(now.since(since)))
        }
        ("stuck", None) => "no consumer takes wakes: no pod with the close role is connected".to_owned(),
        ("behind", _) => "the pods have not caught up with what is due".to_owned(),
        ("cut off", Some(since)) => {
            let time = seconds(now.since(since));
            format!(
                "nothing leads into it: the broker has returned its probes for {time}: `overdue topology verify`"
            )
        }
        ("unknown", _) => "no pod with the watch role has sent a probe yet".to_owned(),
        ("missing", _) => "no such queue: `overdue topology declare`".to_owned(),
        _ => String::new(),
    };
    let messages = line.depth.map_or_else(String::new, |depth| depth.messages.to_string());
    vec![line.queue.clone(), line.state.to_owned(), about, messages]
}

fn value(line: &Line) -> Value {
    json!({
        "queue": line.queue,
        "state": line.state,
        "at": line.at.map(|at| at.to_string()),
        "messages": line.depth.map(|depth| depth.messages),
        "consumers": line.depth.map(|depth| depth.consumers),
    })
}
