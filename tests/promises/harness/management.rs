//! RabbitMQ's management API for tests: an answer that is not the wanted one fails the test.

use overdue_testkit::management::Management as Client;
use serde_json::{Value, json};
use url::Url;

use super::world::{World, env};

/// A client with the rights of the user in `AMQP_URL`.
#[derive(Clone, Debug)]
pub struct Management(Client);

impl Management {
    /// From `OVERDUE_MANAGEMENT_URL` and `AMQP_URL`.
    pub fn from_env() -> Self {
        let url = |name: &str| Url::parse(&env(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (base, broker) = (url("OVERDUE_MANAGEMENT_URL"), url("AMQP_URL"));
        let login = if base.username().is_empty() { &broker } else { &base };
        let (user, password) = (login.username(), login.password().unwrap_or_default());
        Self(Client::new(base.clone(), user, password))
    }

    /// The same API as another user sees it.
    pub fn as_user(&self, user: &str, password: &str) -> Self {
        Self(self.0.as_user(user, password))
    }

    /// The status of a request, whatever it is.
    pub async fn status(&self, method: &'static str, path: &[&str], body: Value) -> u16 {
        self.0.ask(method, path, Some(body)).await.expect("an answer").0
    }

    /// Asks; `path` are the segments behind `/api`. What cannot be had has the API's own explanation as its answer.
    pub async fn get(&self, path: &[&str]) -> Value {
        let (_, body) = self.0.ask("GET", path, None).await.expect("an answer");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path:?}: {error}: {body}"))
    }

    /// Puts (creates or replaces).
    pub async fn put(&self, path: &[&str], body: Value) {
        self.0.put(path, body).await.expect("it is put");
    }

    /// Posts.
    pub async fn post(&self, path: &[&str], body: Value) -> Value {
        self.0.post(path, body).await.expect("it is posted")
    }

    /// Deletes; what is not there is fine.
    pub async fn delete(&self, path: &[&str]) {
        self.0.delete(path).await.expect("it is deleted");
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
