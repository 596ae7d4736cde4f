//! RabbitMQ's management API: vhosts, users, connections, messages.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

/// A client for one user.
#[derive(Clone, Debug)]
pub struct Management {
    agent: ureq::Agent,
    base: Url,
    user: String,
    authorization: String,
}

/// A request that had no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// There was no answer.
    #[error("no answer from RabbitMQ's management API at {base}: {source}")]
    Unreachable {
        /// Where it should be, without a login.
        base: Url,
        /// The client's error.
        source: Box<ureq::Error>,
    },
    /// User, password, tag or permission.
    #[error("the management API refuses `{user}` {path}")]
    Refused {
        /// Who asked.
        user: String,
        /// What was asked for.
        path: String,
    },
    /// Any other status than success.
    #[error("the management API answers {status} to {path}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        path: String,
        /// What the API says about it.
        body: String,
    },
}

impl Management {
    /// A client; nothing is connected yet. A login in `base` is not used.
    ///
    /// # Panics
    /// When `base` is no URL of a server.
    #[must_use]
    pub fn new(mut base: Url, user: &str, password: &str) -> Self {
        let cleared = base.set_username("").and_then(|()| base.set_password(None));
        assert!(cleared.is_ok() && !base.cannot_be_a_base(), "{base} names no server");
        // A connection for each request: after a 500 the broker closes the connection, at times when the next request is on its way.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(Duration::from_secs(120)))
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            // What the API refuses, it explains in the body.
            .http_status_as_error(false);
        let agent = config.build().into();
        Self { agent, base, user: user.to_owned(), authorization: authorization(user, password) }
    }

    /// The same API as another user sees it.
    #[must_use]
    pub fn as_user(&self, user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), authorization: authorization(user, password), ..self.clone() }
    }

    /// Status and body of a request, whatever they are; `path` are the segments behind `/api`.
    pub async fn ask(
        &self,
        method: &'static str,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<(u16, String), ManagementError> {
        let (client, url) = (self.clone(), self.url(path));
        let unreachable =
            |source| ManagementError::Unreachable { base: self.base.clone(), source: Box::new(source) };
        let asking = tokio::task::spawn_blocking(move || {
            let request = ureq::http::Request::builder().method(method).uri(url.as_str());
            let request = request.header("authorization", &client.authorization);
            let request = request.header("content-type", "application/json");
            let body = body.map(|body| body.to_string()).unwrap_or_default();
            let mut answer = client.agent.run(request.body(body)?)?;
            Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
        });
        asking
            .await
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
            .map_err(unreachable)
    }

    /// Asks for something.
    pub async fn get(&self, path: &[&str]) -> Result<Value, ManagementError> {
        let (status, body) = self.ask("GET", path, None).await?;
        self.judge(status, path, body).and_then(|body| json(path, body))
    }

    /// Creates or replaces something.
    pub async fn put(&self, path: &[&str], body: Value) -> Result<(), ManagementError> {
        let (status, body) = self.ask("PUT", path, Some(body)).await?;
        self.judge(status, path, body).map(drop)
    }

    /// Posts something; what the API answers, or null.
    pub async fn post(&self, path: &[&str], body: Value) -> Result<Value, ManagementError> {
        let (status, body) = self.ask("POST", path, Some(body)).await?;
        let body = self.judge(status, path, body)?;
        if body.is_empty() { Ok(Value::Null) } else { json(path, body) }
    }

    /// Deletes something; it may be gone already.
    pub async fn delete(&self, path: &[&str]) -> Result<(), ManagementError> {
        match self.ask("DELETE", path, None).await? {
            (404, _) => Ok(()),
            (status, body) => self.judge(status, path, body).map(drop),
        }
    }

    fn judge(&self, status: u16, path: &[&str], body: String) -> Result<String, ManagementError> {
        let path = path.join("/");
        match status {
            200..300 => Ok(body),
            401 | 403 => Err(ManagementError::Refused { user: self.user.clone(), path }),
            status => Err(ManagementError::Status { status, path, body }),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // `new` has seen that it can have a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        url
    }
}

fn json(path: &[&str], body: String) -> Result<Value, ManagementError> {
    serde_json::from_str(&body).map_err(|_| ManagementError::Status {
        status: 200,
        path: path.join("/"),
        body,
    })
}

fn authorization(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}
