//! The few questions that only RabbitMQ's management API answers: what exists, with which arguments and bindings.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::reason::{refused, unreached};
use crate::config::{Config, SecretUrl};

/// A question to the management API failed. The text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// No answer that could be understood.
    #[error("cannot reach the management API at {url}: {source}; {}", unreached(&.source.to_string()))]
    Unreachable {
        /// Where, without password.
        url: String,
        /// The client's error.
        source: Box<ureq::Error>,
    },
    /// User, password, tags or vhost.
    #[error("the management API at {url} refused the login ({reason}): {}", refused(.reason))]
    Refused {
        /// Where, without password.
        url: String,
        /// What it says.
        reason: String,
    },
    /// The vhost is not there. RabbitMQ 4 says so of one that the user may not see, too.
    #[error(
        "the broker has no vhost `{0}`, or this user has no permissions on it; create it, give the user permissions, or \
         name another in amqp_url (AMQP_URL)"
    )]
    NoVhost(String),
}

/// A client for one vhost.
#[derive(Debug, Clone)]
pub struct Management {
    agent: ureq::Agent,
    base: SecretUrl,
    /// The vhost that the AMQP URL names.
    pub vhost: String,
}

impl Management {
    /// The client that the configuration names; nothing is connected yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::patient(config, Duration::from_secs(30))
    }

    /// The same, with a bound of its own for each question.
    #[must_use]
    pub fn patient(config: &Config, limit: Duration) -> Self {
        let http =
            ureq::Agent::config_builder().timeout_global(Some(limit)).http_status_as_error(false).build();
        Self { agent: http.into(), base: config.management_url.clone(), vhost: vhost(&config.amqp_nodes[0]) }
    }

    /// Asks for a collection of the vhost, such as `queues`.
    ///
    /// # Errors
    /// When there is no answer, the login is refused, or the vhost does not exist. Blocks: run it on a blocking thread.
    pub fn list<T: DeserializeOwned>(&self, what: &str, query: &str) -> Result<Vec<T>, ManagementError> {
        self.ask(&["api", what, &self.vhost], query)
    }

    /// Asks for something that belongs to no vhost, such as `overview`.
    ///
    /// # Errors
    /// When there is no answer or the login is refused. Blocks: run it on a blocking thread.
    pub fn get<T: DeserializeOwned>(&self, what: &str, query: &str) -> Result<T, ManagementError> {
        self.ask(&["api", what], query)
    }

    fn ask<T: DeserializeOwned>(&self, path: &[&str], query: &str) -> Result<T, ManagementError> {
        let shown = self.base.to_string();
        let mut url = self.base.reveal().clone();
        let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
        // The secret goes into a header, where no proxy's log keeps it.
        let (_, _) = (url.set_username(""), url.set_password(None));
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query((!query.is_empty()).then_some(query));
        let unreachable =
            |source| ManagementError::Unreachable { url: shown.clone(), source: Box::new(source) };
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let answer = self.agent.get(url.as_str()).header("authorization", authorization).call();
        let mut answer = answer.map_err(unreachable)?;
        match answer.status().as_u16() {
            200 => {
                let read = answer.body_mut().with_config().limit(256 * 1024 * 1024).read_json();
                read.map_err(|source| ManagementError::Unreachable { url: shown, source: Box::new(source) })
            }
            401 | 403 => {
                let said: Result<Value, _> = answer.body_mut().with_config().limit(64 * 1024).read_json();
                let reason = said.ok().and_then(|said| Some(said["reason"].as_str()?.to_owned()));
                Err(ManagementError::Refused { url: shown, reason: reason.unwrap_or_default() })
            }
            404 if path.contains(&self.vhost.as_str()) => Err(ManagementError::NoVhost(self.vhost.clone())),
            status => Err(unreachable(ureq::Error::StatusCode(status))),
        }
    }
}

/// The vhost that an AMQP URL names: its path, decoded; without a path the default vhost.
fn vhost(node: &SecretUrl) -> String {
    match node.reveal().path().trim_start_matches('/') {
        "" => "/".to_owned(),
        path => decoded(path),
    }
}

fn decoded(text: &str) -> String {
    // A form value decodes the same, but for the plus sign.
    let pair = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
