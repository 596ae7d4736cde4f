//! `overdue verify`, and how a verification is shown.

use super::output::table;
use super::{CliError, Context};
use crate::broker::live::verify;
use crate::broker::management::{Management, ManagementError};
use crate::database;
use crate::finding::{Finding, Outcome};
use crate::topology::{Names, Topology};
use crate::verify::{self, Report};

/// Verifies broker and database. If one cannot be asked, that is reported and the other is verified all the same.
pub async fn run(context: &Context) -> Result<(), CliError> {
    let config = context.config()?;
    let mut findings = match broker(context).await {
        Ok(findings) => findings,
        Err(CliError::Management(error)) => vec![unseen(&error)],
        Err(error) => return Err(error),
    };
    findings.extend(verify::database::findings(&database::pool(&config)?, &config).await);
    show(context, findings)
}

/// The broker alone: `overdue topology verify`.
pub async fn run_broker(context: &Context) -> Result<(), CliError> {
    let findings = broker(context).await?;
    show(context, findings)
}

async fn broker(context: &Context) -> Result<Vec<Finding>, CliError> {
    let config = context.broker_config()?;
    let (names, management) = (Names::new(&config.prefix), Management::new(&config));
    let topology = Topology::new(&names, &config.lanes);
    let found = tokio::task::spawn_blocking(move || verify(&management, &names, &topology)).await;
    Ok(found.map_err(std::io::Error::other)??)
}

fn unseen(error: &ManagementError) -> Finding {
    let remedy = "make the management API reachable for this command (management_url), and run it again";
    Finding::cannot_tell("broker", "everything in it", error.to_string(), remedy)
}

fn show(context: &Context, findings: Vec<Finding>) -> Result<(), CliError> {
    let report = Report::new(findings);
    context.out.show(|| text(&report), &report);
    match (report.differs, report.cannot_tell) {
        (0, 0) => Ok(()),
        (0, hidden) => Err(CliError::CannotTell(hidden)),
        (differs, _) => Err(CliError::Differs(differs)),
    }
}

fn text(report: &Report) -> String {
    let mut parts = vec!["Looked at:".to_owned()];
    for (places, what) in report.looked_at() {
        parts.push(format!("  {} ({})", places.join(", "), what.join(", ")));
    }
    let rows = |wanted: fn(&Finding) -> bool| -> Vec<Vec<String>> {
        report.findings.iter().filter(|finding| wanted(finding)).map(row).collect()
    };
    if report.differs > 0 {
        parts.push(format!("\nDiffers, {}:", report.differs));
        parts.push(table(&["where", "what", "problem", "remedy"], &rows(Finding::is_different)));
    }
    if report.cannot_tell > 0 {
        parts.push(format!("\nCannot tell, {}:", report.cannot_tell));
        parts.push(table(&["where", "what", "why", "remedy"], &rows(Finding::is_hidden)));
    }
    parts.push(match (report.differs, report.cannot_tell) {
        (0, 0) => format!("\nAll {} are as Overdue needs them.", report.fine),
        (differs, hidden) => {
            format!("\n{} fine, {differs} different, {hidden} that could not be seen.", report.fine)
        }
    });
    parts.join("\n")
}

fn row(finding: &Finding) -> Vec<String> {
    let (about, remedy) = match &finding.outcome {
        Outcome::Fine => ("", ""),
        Outcome::Differs { problem, remedy } => (problem.as_str(), remedy.as_str()),
        Outcome::CannotTell { why, remedy } => (why.as_str(), remedy.as_str()),
    };
    [&finding.place, &finding.what, about, remedy].map(str::to_owned).to_vec()
}
