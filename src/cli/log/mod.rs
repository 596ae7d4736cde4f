//! The log of `overdue run`, on standard error: no failure of the log holds up or ends a pod.

mod writer;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use super::harmless::Escaping;
use super::{CliError, Context};
use crate::stats::Stats;
use writer::Lines;
pub use writer::{Log, last_words};

/// Starts the log; lost lines are counted.
pub fn start(context: &Context, stats: &Arc<Stats>) -> Result<Log, CliError> {
    let filter =
        context.raw.parse("log", |text| EnvFilter::try_new(text).map_err(|error| error.to_string()))?;
    let json = match context.raw.text("log_format")? {
        "text" => false,
        "json" => true,
        other => {
            let problem = format!("`{other}` is neither `text` nor `json`");
            return Err(context.raw.wrong("log_format", problem).into());
        }
    };
    // A separate descriptor: a write that hangs would hold the standard library's lock on standard error.
    let out = std::io::stderr().as_fd().try_clone_to_owned()?;
    let (log, lines) = Log::start(out.into(), Arc::clone(stats), json)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // The subscriber would report a failed write on standard error, and panic if that is a closed pipe.
        .log_internal_errors(false)
        .with_writer(move || -> Lines { lines.clone() });
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).fmt_fields(debug_fn(field).delimited(" ")).init();
    }
    // The default hook writes to standard error, which may hang.
    std::panic::set_hook(Box::new(|panic| tracing::error!(event = "defect", "a defect of Overdue: {panic}")));
    Ok(log)
}

/// Writes one field of a line. Its value and the message may contain foreign text, from a sender or from the database.
fn field(
    out: &mut Writer<'_>,
    field: &tracing::field::Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    use std::fmt::Write;
    if field.name() == "event" {
        // One of the keys in docs/logging.md; without quotes it is easy to search for.
        return write!(out, "event={}", format!("{value:?}").trim_matches('"'));
    }
    if field.name() != "message" {
        write!(out, "{}=", field.name())?;
    }
    write!(Escaping(out), "{value:?}")
}
