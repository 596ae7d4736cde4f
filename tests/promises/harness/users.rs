//! A shop with the broker users that `overdue topology export` brings, each with a password.

use lapin::{Channel, Connection, ConnectionProperties};
use overdue::topology::Names;
use serde_json::{Value, json};
use url::Url;

use super::management::Management;
use super::world::World;

/// The parts that have a user.
pub const PARTS: [&str; 4] = ["publisher", "service", "subscriber", "operator"];

/// A shop of a world, under a prefix of its own.
pub struct Shop<'a> {
    pub prefix: String,
    pub names: Names,
    world: &'a World,
}

impl World {
    /// The prefix of this world's shop with users: unlike any other world's, because users belong to the whole broker.
    pub fn prefix(&self) -> String {
        format!("{}.", self.name)
    }

    /// The prefix of another shop in the same vhost.
    pub fn second_prefix(&self) -> String {
        format!("{}_second.", self.name)
    }

    /// Imports what `overdue topology export` prints, and gives its users a password.
    pub async fn import_shop(&self) -> Shop<'_> {
        self.import_shop_of(self.prefix()).await
    }

    /// The same under a prefix.
    pub async fn import_shop_of(&self, prefix: String) -> Shop<'_> {
        let (code, definitions, error) = self.run(&["topology", "export", "--prefix", &prefix]).await;
        assert_eq!((code, error.as_str()), (0, ""));
        let definitions: Value = serde_json::from_str(&definitions).expect("JSON");
        self.management.post(&["definitions"], definitions.clone()).await;
        for user in definitions["users"].as_array().expect("users") {
            let (name, tags) = (user["name"].as_str().expect("a name"), &user["tags"]);
            self.management.put(&["users", name], json!({"password": "secret", "tags": tags})).await;
        }
        Shop { names: Names::new(&prefix), prefix, world: self }
    }
}

impl Shop<'_> {
    /// The URL with which a part's user connects.
    pub fn url(&self, part: &str) -> String {
        let mut url = Url::parse(&self.world.amqp_url).expect("a URL");
        url.set_username(&self.names.user(part)).expect("a URL with a user");
        url.set_password(Some("secret")).expect("a URL with a password");
        url.into()
    }

    /// A connection as a part's user.
    pub async fn connect(&self, part: &str) -> Connection {
        Connection::connect(&self.url(part), ConnectionProperties::default()).await.expect("a connection")
    }

    /// A channel as a part's user.
    pub async fn channel(&self, part: &str) -> (Connection, Channel) {
        let connection = self.connect(part).await;
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// The management API as a part's user sees it.
    pub fn management(&self, part: &str) -> Management {
        self.world.management.as_user(&self.names.user(part), "secret")
    }
}
