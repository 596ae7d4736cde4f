//! Asks a broker what it has, and compares the answer with what Overdue needs.

use serde::Deserialize;

use super::management::{Management, ManagementError};
use crate::finding::Finding;
use crate::topology::live::Live;
use crate::topology::verify::findings;
use crate::topology::{Names, Topology};

/// Compares a broker with the topology and returns every finding. Blocks: run it on a blocking thread.
///
/// # Errors
/// When the management API does not answer, or shows none of the vhost's exchanges, queues and bindings.
pub fn verify(
    management: &Management,
    names: &Names,
    topology: &Topology,
) -> Result<Vec<Finding>, ManagementError> {
    Ok(findings(&live(management)?, names, topology))
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: Option<String>,
}

fn live(management: &Management) -> Result<Live, ManagementError> {
    let overview: Overview = management.get("overview", "")?;
    let exchanges = management.list("exchanges", "");
    // With disable_stats the answer is current, and the same on a broker that keeps no statistics.
    let queues = management.list("queues", "disable_stats=true");
    let bindings = management.list("bindings", "");
    let (exchanges, queues, bindings) = match (exchanges, queues, bindings) {
        (Err(error), Err(_), Err(_)) => return Err(error),
        seen => seen,
    };
    Ok(Live {
        version: overview.rabbitmq_version,
        exchanges: exchanges.into(),
        queues: queues.into(),
        bindings: bindings.into(),
        policies: management.list("policies", "").into(),
        operator_policies: management.list("operator-policies", "").into(),
        feature_flags: management.get("feature-flags", "").into(),
    })
}
