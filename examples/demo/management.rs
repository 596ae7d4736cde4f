//! RabbitMQ's management API, as far as the stage needs it: make and remove a vhost and users.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;
use url::Url;

use crate::addresses::Login;
use crate::{During, Failure, Result};

/// A client with an administrator's login.
#[derive(Clone, Debug)]
pub struct Management {
    /// Where it is, without a login.
    pub base: Url,
    login: Login,
    agent: ureq::Agent,
}

impl Management {
    /// A client; nothing is connected yet.
    pub fn new(base: Url, login: Login) -> Self {
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            // What the API refuses, it explains in the body.
            .http_status_as_error(false)
            .build();
        Self { base, login, agent: http.into() }
    }

    /// Makes or changes what the path names.
    pub async fn put(&self, path: &[&str], body: Value) -> Result<()> {
        let (client, url) = (self.clone(), self.url(path)?);
        let answer = tokio::task::spawn_blocking(move || {
            let request = client.agent.put(url.as_str()).header("authorization", client.authorization());
            client.judge(&url, request.send_json(body), false)
        });
        answer.await?
    }

    /// Removes what the path names; it may be gone already.
    pub async fn delete(&self, path: &[&str]) -> Result<()> {
        let (client, url) = (self.clone(), self.url(path)?);
        let answer = tokio::task::spawn_blocking(move || {
            let request = client.agent.delete(url.as_str()).header("authorization", client.authorization());
            client.judge(&url, request.call(), true)
        });
        answer.await?
    }

    fn url(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.base.clone();
        let unusable = |()| Failure::from("OVERDUE_MANAGEMENT_URL cannot be used");
        url.path_segments_mut().map_err(unusable)?.pop_if_empty().push("api").extend(path);
        Ok(url)
    }

    fn authorization(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.login.user, self.login.password)))
    }

    fn judge(
        &self,
        url: &Url,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        may_be_gone: bool,
    ) -> Result<()> {
        let mut answer = answer.during(format!(
            "no answer from RabbitMQ's management API at {}; it is wanted for a vhost of the demo's own \
             (`rabbitmq-plugins enable rabbitmq_management`, and OVERDUE_MANAGEMENT_URL says where it is)",
            self.base
        ))?;
        match answer.status().as_u16() {
            200..300 => Ok(()),
            404 if may_be_gone => Ok(()),
            401 | 403 => Err(format!(
                "the management API refuses `{}` {}: the demo makes a vhost and users of its own, for which the user in \
                 AMQP_URL needs the tag `administrator` (rabbitmqctl set_user_tags {0} administrator)",
                self.login.user,
                url.path()
            )
            .into()),
            status => {
                let said = answer.body_mut().read_to_string().unwrap_or_default();
                Err(format!("the management API answers {status} to {}: {said}", url.path()).into())
            }
        }
    }
}
