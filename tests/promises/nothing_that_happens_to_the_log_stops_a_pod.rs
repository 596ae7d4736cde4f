//! A log that cannot be written costs lines and nothing else, and nobody can write a line of it but Overdue.

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use overdue::stats::Summary;
use tokio::process::{Child, Command};

use crate::harness::{World, eventually};

/// Starts a pod whose standard output and standard error are this.
fn started(world: &World, arguments: &[&str], stream: impl Fn() -> Stdio) -> Child {
    let mut command = world.command(&[&["run"], arguments].concat());
    command.stdout(stream()).stderr(stream()).spawn().expect("started")
}

async fn stopped(mut pod: Child) -> Option<i32> {
    let pid = pod.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().await.expect("kill").success());
    pod.wait().await.expect("it ended").code()
}

/// An order is placed and closed: by its wake, because the sweep leaves it alone.
async fn closes(world: &World) {
    world.ready().await;
    let order = world.place(Duration::from_millis(500), &[]).await;
    world.closed(order).await;
}

const NO_SWEEP: [&str; 2] = ["--sweep-grace", "1h"];

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("a full device").into()
}

fn pipe_without_reader() -> Stdio {
    std::io::pipe().expect("a pipe").1.into()
}

#[tokio::test]
async fn a_full_disk_and_a_reader_that_is_gone_cost_lines_and_no_order() {
    World::with(async |world| {
        let pod = started(world, &NO_SWEEP, full_disk);
        closes(world).await;
        assert_eq!(stopped(pod).await, Some(0));

        let pod = started(world, &[&NO_SWEEP[..], &["--json"]].concat(), pipe_without_reader);
        closes(world).await;
        assert_eq!(stopped(pod).await, Some(0));

        let mut command = world.command(&["run", "--json", "--roles", "close"]);
        let pod = command.stdout(Stdio::piped()).stderr(full_disk()).spawn().expect("started");
        let pid = pod.id().expect("it runs").to_string();
        // By the queue itself: the management API may still show the consumer of the pod before.
        world.consumed(&world.names.process(), 1).await;
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().await.expect("kill").success());
        let output = pod.wait_with_output().await.expect("it ended");
        let summary: Summary = serde_json::from_slice(&output.stdout).expect("figures");
        assert!(summary.counts.get("log_lines_lost").is_some_and(|lost| *lost > 1), "{summary}");
    })
    .await;
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_holds_up_no_order_and_its_reader_learns_what_it_missed() {
    World::with(async |world| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // Full from the beginning; a kernel that gives less room keeps the rest of it waiting.
        let mut fill = writer.try_clone().expect("a clone");
        let filling = std::thread::spawn(move || fill.write_all(&vec![b'\n'; 1 << 16]));
        let loud = [&NO_SWEEP[..], &["--log", "trace", "--json"]].concat();
        let pod = started(world, &loud, || writer.try_clone().expect("a clone").into());
        drop(writer);
        closes(world).await;
        world.place_many(200, Duration::ZERO, Duration::from_secs(2), &[]).await;
        world.all_settled().await;

        let mut seen = reader;
        let reading = std::thread::spawn(move || until_it_says(&mut seen, "event=log_lines_lost").is_some());
        eventually("the log is read", async || reading.is_finished()).await;
        assert!(reading.join().expect("it was read"), "nothing says that lines were lost");
        // Nobody reads any more, and there is no reader any more.
        assert_eq!(stopped(pod).await, Some(0));
        filling.join().expect("no panic").expect("written");
    })
    .await;
}

fn until_it_says(pipe: &mut PipeReader, text: &str) -> Option<()> {
    let (mut chunk, mut log) = (vec![0; 1 << 20], String::new());
    loop {
        let count = pipe.read(&mut chunk).ok().filter(|count| *count > 0)?;
        log.push_str(&String::from_utf8_lossy(&chunk[..count]));
        if log.contains(text) {
            return Some(());
        }
        log.drain(..log.rfind('\n').unwrap_or(0));
    }
}

#[tokio::test]
async fn a_command_whose_reader_is_gone_does_not_panic() {
    World::with(async |world| {
        for (arguments, code) in [
            (&["topology", "export"][..], 0),
            (&["topology", "declare"], 0),
            (&["run", "--lead", "soon"], 2),
            (&["order", "show", "1"], 3),
            (&["--help"], 0),
        ] {
            let mut command = world.command(arguments);
            let ended = command.stdout(pipe_without_reader()).stderr(pipe_without_reader()).status();
            assert_eq!(ended.await.expect("it ran").code(), Some(code), "{arguments:?}");
        }
    })
    .await;
}

/// What a forger would like to see in the log, and on the terminal of whoever reads it.
const FORGED: &str = "x\r\n2026-01-01T00:00:00.000000Z ERROR overdue::closing: all is lost\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{7}";

async fn forge(world: &World) {
    world
        .sql(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN RAISE EXCEPTION '%', $t${FORGED}$t$; END$$;
             DROP TRIGGER IF EXISTS refuse ON orders;
             CREATE TRIGGER refuse BEFORE UPDATE ON orders FOR EACH ROW WHEN (NEW.status = 'CLOSED')
             EXECUTE FUNCTION refuse()"
        ))
        .await;
    world.place(Duration::ZERO, &[]).await;
    for key in ["order.delay", "order.process"] {
        let properties = BasicProperties::default()
            .with_content_type(FORGED.into())
            .with_content_encoding(FORGED.into())
            .with_message_id(FORGED.into());
        world.publish(key, FORGED.as_bytes(), properties).await;
        let kind = BasicProperties::default().with_content_type(FORGED.into());
        world.publish(key, b"1", kind).await;
        world
            .publish(key, format!("{{\"order_id\":{FORGED:?}}}").as_bytes(), BasicProperties::default())
            .await;
    }
}

#[tokio::test]
async fn foreign_text_neither_makes_a_line_nor_acts_on_a_terminal() {
    World::with(async |world| {
        for format in ["text", "json"] {
            let pod = world.process(&["--log-format", format, "--max-attempts", "1"]);
            world.declared().await;
            forge(world).await;
            eventually("the order and the messages are parked", async || {
                world.depth(&world.names.parked()).await >= 7
            })
            .await;
            pod.stopped().await;
            let log = pod.text();
            assert!(log.contains("all is lost"), "the forged text was logged: {log}");
            let began = |line: &str| line.starts_with("20") && line.contains("Z ");
            for line in log.split('\n').filter(|line| !line.is_empty()) {
                match format {
                    "text" => assert!(began(line), "{line}"),
                    _ => assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}"),
                }
                assert!(!line.starts_with("2026-01-01T00:00:00.000000Z"), "a forged line: {line}");
                let acts = |c: char| c.is_control() || "\u{202e}\u{2028}".contains(c);
                assert!(!line.contains(acts), "{line:?}");
            }
            world.sql("DROP TRIGGER refuse ON orders; DELETE FROM orders").await;
            let (code, _, error) = world.run(&["parked", "discard", "--all"]).await;
            assert_eq!(code, 0, "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn every_figure_is_a_field_of_its_own_for_a_collector() {
    World::with(async |world| {
        let pod = world.process(&[]);
        closes(world).await;
        pod.stopped().await;
        let last: serde_json::Value =
            serde_json::from_str(pod.text().lines().last().expect("a line")).expect("JSON");
        assert_eq!((&last["event"], &last["closed"]), (&"stopped".into(), &2.into()), "{last}");
        assert!(last["lateness_ms_max"].is_f64(), "{last}");
        let named = overdue::stats::Stats::default();
        named.add(overdue::stats::Count::LogLinesLost, 1);
        assert_eq!(named.summary().to_string(), "log_lines_lost=1", "the names are in the counters' order");
    })
    .await;
}
