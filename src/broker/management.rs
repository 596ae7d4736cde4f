//! A client of RabbitMQ's management API, for what AMQP cannot tell: what exists, with which arguments and bindings.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};

use super::reason::{refused, unreached};
use crate::config::{Config, SecretUrl};

/// A failed request to the management API. The text names the setting.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// No answer, or one that is not the management API's.
    #[error("cannot reach the management API at {url}: {source}; {}", unreached(&.source.to_string()))]
    Unreachable {
        /// Without its password.
        url: String,
        source: Box<ureq::Error>,
    },
    /// Wrong user or password, or the user lacks a tag or permissions on the vhost.
    #[error("the management API at {url} refused the login ({reason}): {}", refused(.reason))]
    Refused {
        /// Without its password.
        url: String,
        /// The API's own reason; empty where it gives none.
        reason: String,
    },
    /// The vhost does not exist. RabbitMQ 4 answers the same for a vhost that the user may not see.
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
    /// A client for the configured API; it does not connect yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::patient(config, Duration::from_secs(30))
    }

    /// As [`Management::new`], with a timeout of its own for each request.
    #[must_use]
    pub fn patient(config: &Config, limit: Duration) -> Self {
        // The machine's certificate authorities or those of SSL_CERT_FILE, as for AMQP and PostgreSQL: by default, ureq trusts only
        // the public ones, and a broker in a private network has a certificate of a private authority.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let http = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(limit))
            .http_status_as_error(false)
            .build();
        Self { agent: http.into(), base: config.management_url.clone(), vhost: vhost(&config.amqp_nodes[0]) }
    }

    /// Asks for a collection of the vhost, such as `queues`. Blocks: run it on a blocking thread.
    ///
    /// # Errors
    /// When there is no usable answer, the login is refused, or the vhost does not exist.
    pub fn list<T: DeserializeOwned>(&self, what: &str, query: &str) -> Result<Vec<T>, ManagementError> {
        self.ask(&["api", what, &self.vhost], query)
    }

    /// Asks for something that belongs to no vhost, such as `overview`. Blocks: run it on a blocking thread.
    ///
    /// # Errors
    /// When there is no usable answer, or the login is refused.
    pub fn get<T: DeserializeOwned>(&self, what: &str, query: &str) -> Result<T, ManagementError> {
        self.ask(&["api", what], query)
    }

    fn ask<T: DeserializeOwned>(&self, path: &[&str], query: &str) -> Result<T, ManagementError> {
        let shown = self.base.to_string();
        let mut url = self.base.reveal().clone();
        let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
        // Credentials go into a header, because proxies log URLs.
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
    // Form decoding is percent-decoding, except that `+` stands for a space.
    let pair = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
