//! What a broker has, as its management API answers. A missing field means that its value is not known.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Names with their values, such as a queue's arguments or a policy's definition.
pub type Values = BTreeMap<String, Value>;

/// What a broker has: the lists of one vhost, and the cluster's version and feature flags. No field comes from the
/// management plugin's statistics, which may be off or seconds old.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Live {
    /// RabbitMQ's version.
    pub version: Option<String>,
    pub exchanges: Part<LiveExchange>,
    pub queues: Part<LiveQueue>,
    pub bindings: Part<LiveBinding>,
    pub policies: Part<LivePolicy>,
    pub operator_policies: Part<LivePolicy>,
    pub feature_flags: Part<LiveFlag>,
}

/// One list of the management API, or why it cannot be seen.
#[derive(Debug)]
pub enum Part<T> {
    Seen(Vec<T>),
    /// The reason.
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

impl<T, E: std::fmt::Display> From<Result<Vec<T>, E>> for Part<T> {
    fn from(answer: Result<Vec<T>, E>) -> Self {
        match answer {
            Ok(list) => Self::Seen(list),
            Err(error) => Self::Unseen(error.to_string()),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct LiveExchange {
    pub name: String,
    pub r#type: Option<String>,
    pub durable: Option<bool>,
    pub auto_delete: Option<bool>,
    pub internal: Option<bool>,
    #[serde(default, deserialize_with = "values")]
    pub arguments: Option<Values>,
}

#[derive(Debug, Deserialize)]
pub struct LiveQueue {
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
pub struct LiveBinding {
    pub source: String,
    pub destination: String,
    pub destination_type: Option<String>,
    pub routing_key: String,
}

#[derive(Debug, Deserialize)]
pub struct LivePolicy {
    pub name: String,
    pub pattern: Option<String>,
    #[serde(rename = "apply-to")]
    pub apply_to: Option<String>,
    pub priority: Option<i64>,
    #[serde(default, deserialize_with = "values")]
    pub definition: Option<Values>,
}

#[derive(Debug, Deserialize)]
pub struct LiveFlag {
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
