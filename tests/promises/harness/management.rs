//! RabbitMQ's management API, as far as tests need it: vhosts, users, connections, messages.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};
use url::Url;

use super::world::World;

/// A client with the rights of the user in `AMQP_URL`.
#[derive(Clone, Debug)]
pub struct Management {
    agent: ureq::Agent,
    base: Url,
    authorization: String,
}

impl Management {
    /// From `OVERDUE_MANAGEMENT_URL` and `AMQP_URL`.
    pub fn from_env() -> Self {
        let url = |name: &str| {
            let value = std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"));
            Url::parse(&value).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (base, broker) = (url("OVERDUE_MANAGEMENT_URL"), url("AMQP_URL"));
        let login = if base.username().is_empty() { &broker } else { &base };
        let login = format!("{}:{}", login.username(), login.password().unwrap_or_default());
        // A connection for each request: after a 500 the broker closes the connection, at times when the next request is on its way.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(120)))
            .max_idle_connections(0)
            .max_idle_connections_per_host(0);
        Self {
            agent: config.http_status_as_error(false).build().into(),
            authorization: format!("Basic {}", BASE64_STANDARD.encode(login)),
            base,
        }
    }

    /// The same API as another user sees it.
    pub fn as_user(&self, user: &str, password: &str) -> Self {
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        Self { authorization, ..self.clone() }
    }

    /// The status of a request, whatever it is.
    pub async fn status(&self, method: &'static str, path: &[&str], body: Value) -> u16 {
        let (agent, url, authorization) = (self.agent.clone(), self.url(path), self.authorization.clone());
        blocking(move || {
            let request = ureq::http::Request::builder().method(method).uri(url.as_str());
            let request =
                request.header("authorization", authorization).header("content-type", "application/json");
            let request = request.body(body.to_string()).expect("a request");
            let answer = agent.run(request).unwrap_or_else(|error| panic!("{method} {url}: {error}"));
            answer.status().as_u16()
        })
        .await
    }

    /// Asks; `path` are the segments behind `/api`.
    pub async fn get(&self, path: &[&str]) -> Value {
        let (agent, url, authorization) = (self.agent.clone(), self.url(path), self.authorization.clone());
        blocking(move || {
            let answer = agent.get(url.as_str()).header("authorization", authorization).call();
            let mut answer = answer.unwrap_or_else(|error| panic!("GET {url}: {error}"));
            answer.body_mut().read_json().unwrap_or_else(|error| panic!("GET {url}: {error}"))
        })
        .await
    }

    /// Puts (creates or replaces).
    pub async fn put(&self, path: &[&str], body: Value) {
        let (agent, url, authorization) = (self.agent.clone(), self.url(path), self.authorization.clone());
        blocking(move || {
            let answer = agent.put(url.as_str()).header("authorization", authorization).send_json(body);
            let answer = answer.unwrap_or_else(|error| panic!("PUT {url}: {error}"));
            assert!(answer.status().is_success(), "PUT {url}: {}", answer.status());
        })
        .await;
    }

    /// Posts.
    pub async fn post(&self, path: &[&str], body: Value) -> Value {
        let (agent, url, authorization) = (self.agent.clone(), self.url(path), self.authorization.clone());
        blocking(move || {
            let answer = agent.post(url.as_str()).header("authorization", authorization).send_json(body);
            let mut answer = answer.unwrap_or_else(|error| panic!("POST {url}: {error}"));
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            assert!(answer.status().is_success(), "POST {url}: {} {text}", answer.status());
            serde_json::from_str(&text).unwrap_or(Value::Null)
        })
        .await
    }

    /// Deletes; what is not there is fine.
    pub async fn delete(&self, path: &[&str]) {
        let (agent, url, authorization) = (self.agent.clone(), self.url(path), self.authorization.clone());
        blocking(move || {
            let answer = agent.delete(url.as_str()).header("authorization", authorization).call();
            let answer = answer.unwrap_or_else(|error| panic!("DELETE {url}: {error}"));
            assert!(
                answer.status().is_success() || answer.status() == 404,
                "DELETE {url}: {}",
                answer.status()
            );
        })
        .await;
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        let _ = (url.set_username(""), url.set_password(None));
        url.path_segments_mut().expect("an http URL").pop_if_empty().push("api").extend(path);
        url
    }
}

impl World {
    /// Closes every connection to this world's vhost that the management API has heard of, as an operator can; how
    /// many there were.
    pub async fn close_connections(&self) -> usize {
        let connections = self.management.get(&["vhosts", &self.name, "connections"]).await;
        let names: Vec<_> =
            connections.as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        for name in &names {
            // 500 where the connection ends by itself at this moment.
            let status = self.management.status("DELETE", &["connections", name], json!(null)).await;
            assert!([204, 404, 500].contains(&status), "closing {name}: {status}");
        }
        names.len()
    }

    /// A broker user who may do just this in this world's vhost; the URL to connect with.
    pub async fn limited_user(&self, configure: &str, write: &str, read: &str) -> String {
        let user = format!("{}_limited", self.name);
        self.management.put(&["users", &user], json!({"password": "limited", "tags": ""})).await;
        let permissions = json!({"configure": configure, "write": write, "read": read});
        self.management.put(&["permissions", &self.name, &user], permissions).await;
        let mut url = Url::parse(&self.amqp_url).expect("a URL");
        url.set_username(&user).expect("a URL with a user");
        url.set_password(Some("limited")).expect("a URL with a password");
        url.into()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("an answer of the management API")
}
