//! What a broker has, as its management API answers. Every field may be absent: what is not there is not known.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::management::{Management, ManagementError};

/// Names with their values, such as a queue's arguments or a policy's definition.
pub type Values = BTreeMap<String, Value>;

/// What a broker has. No field of it comes from the management plugin's statistics, which may be off or seconds old.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Live {
    /// RabbitMQ's version.
    pub version: Option<String>,
    pub(super) exchanges: Part<LiveExchange>,
    pub(super) queues: Part<LiveQueue>,
    pub(super) bindings: Part<LiveBinding>,
    pub(super) policies: Part<LivePolicy>,
    pub(super) operator_policies: Part<LivePolicy>,
    pub(super) feature_flags: Part<LiveFlag>,
}

/// One list of the management API, or why it cannot be seen.
#[derive(Debug)]
pub enum Part<T> {
    /// The whole list.
    Seen(Vec<T>),
    /// Why it cannot be seen.
    Unseen(String),
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self::Unseen("the management API did not show it".to_owned())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::deserialize(from).map(Self::Seen)
    }
}

impl<T> From<Result<Vec<T>, ManagementError>> for Part<T> {
    fn from(answer: Result<Vec<T>, ManagementError>) -> Self {
        match answer {
            Ok(list) => Self::Seen(list),
            Err(error) => Self::Unseen(error.to_string()),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct LiveExchange {
    pub name: String,
    pub r#type: Option<String>,
    pub durable: Option<bool>,
    pub auto_delete: Option<bool>,
    pub internal: Option<bool>,
    #[serde(default, deserialize_with = "values")]
    pub arguments: Option<Values>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LiveQueue {
    pub name: String,
    pub durable: Option<bool>,
    pub auto_delete: Option<bool>,
    #[serde(default, deserialize_with = "values")]
    pub arguments: Option<Values>,
    pub state: Option<String>,
    pub members: Option<Vec<String>>,
    pub online: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LiveBinding {
    pub source: String,
    pub destination: String,
    pub destination_type: Option<String>,
    pub routing_key: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LivePolicy {
    pub name: String,
    pub pattern: Option<String>,
    #[serde(rename = "apply-to")]
    pub apply_to: Option<String>,
    pub priority: Option<i64>,
    #[serde(default, deserialize_with = "values")]
    pub definition: Option<Values>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LiveFlag {
    pub name: String,
    pub state: Option<String>,
}

/// Names with values. RabbitMQ writes an empty table as an empty list in some places.
fn values<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Values>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Table(Values),
        List(Vec<Value>),
    }
    Ok(match Option::deserialize(from)? {
        Some(Either::Table(table)) => Some(table),
        Some(Either::List(list)) if list.is_empty() => Some(Values::new()),
        Some(Either::List(_)) | None => None,
    })
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: Option<String>,
}

impl Live {
    /// Asks the management API.
    ///
    /// # Errors
    /// When it cannot be asked at all, or shows nothing of the vhost. Blocks: run it on a thread that may.
    pub fn of(management: &Management) -> Result<Self, ManagementError> {
        let overview: Overview = management.get("overview", "")?;
        let exchanges = management.list("exchanges", "");
        // Without statistics the answer is what the broker has at this moment, even where it keeps none.
        let queues = management.list("queues", "disable_stats=true");
        let bindings = management.list("bindings", "");
        let (exchanges, queues, bindings) = match (exchanges, queues, bindings) {
            (Err(error), Err(_), Err(_)) => return Err(error),
            seen => seen,
        };
        Ok(Self {
            version: overview.rabbitmq_version,
            exchanges: exchanges.into(),
            queues: queues.into(),
            bindings: bindings.into(),
            policies: management.list("policies", "").into(),
            operator_policies: management.list("operator-policies", "").into(),
            feature_flags: management.get("feature-flags", "").into(),
        })
    }
}
