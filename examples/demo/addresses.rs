//! Addresses and logins, from the three variables that `dev/with-services` sets.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use url::Url;

use crate::{During, Result};

/// The demo's own database: dropped and created again at each start.
pub const DATABASE: &str = "overdue_demo";
/// The demo's own vhost: deleted and created again at each start.
pub const VHOST: &str = "overdue-demo";

/// A user of the broker.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: String,
}

#[derive(Debug)]
pub struct Addresses {
    /// The database to connect to for creating the demo's own.
    pub server: Url,
    nodes: Vec<Url>,
    /// The management API, without a login.
    pub management: Url,
    /// The user who may create vhosts and users there.
    pub administrator: Login,
    /// `AMQP_URL`'s own user, who also subscribes to events.
    pub crew: Login,
    /// The pods' user.
    pub service: Login,
    /// The outside services' user.
    pub publisher: Login,
    /// The user for the management UI.
    pub operator: Login,
}

impl Addresses {
    /// Reads the variables, and draws the passwords of the users that will be created.
    pub fn from_env() -> Result<Self> {
        let server = Url::parse(&variable("DATABASE_URL")?).during("DATABASE_URL")?;
        if server.path().trim_start_matches('/') == DATABASE {
            return Err(format!(
                "DATABASE_URL names {DATABASE}, which the demo drops: name another database"
            )
            .into());
        }
        let nodes: Result<Vec<_>, _> =
            variable("AMQP_URL")?.split(',').map(|node| Url::parse(node.trim())).collect();
        let nodes = nodes.during("AMQP_URL")?;
        let crew = login_of(nodes.first().ok_or("AMQP_URL names no node")?);
        let mut management =
            Url::parse(&variable("OVERDUE_MANAGEMENT_URL")?).during("OVERDUE_MANAGEMENT_URL")?;
        let administrator =
            if management.username().is_empty() { crew.clone() } else { login_of(&management) };
        // The URL is printed later, so the login is removed.
        let _ = (management.set_username(""), management.set_password(None));
        let user = |role: &str| -> Result<Login> {
            Ok(Login { user: format!("overdue-demo-{role}"), password: password()? })
        };
        let (service, publisher, operator) = (user("service")?, user("publisher")?, user("operator")?);
        Ok(Self { server, nodes, management, administrator, crew, service, publisher, operator })
    }

    /// The demo's database.
    pub fn database(&self) -> Url {
        let mut url = self.server.clone();
        url.set_path(DATABASE);
        url
    }

    /// The demo's vhost on every node, for this user.
    pub fn amqp(&self, login: &Login) -> Vec<Url> {
        let vhost = |node: &Url| {
            let mut url = with_login(node.clone(), login);
            url.set_path(VHOST);
            url
        };
        self.nodes.iter().map(vhost).collect()
    }

    /// The environment of Overdue's own commands, as the service's user.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let amqp: Vec<_> = self.amqp(&self.service).iter().map(ToString::to_string).collect();
        let management = with_login(self.management.clone(), &self.operator);
        [
            ("DATABASE_URL", self.database().to_string()),
            ("AMQP_URL", amqp.join(",")),
            ("OVERDUE_MANAGEMENT_URL", management.to_string()),
            ("OVERDUE_DECLARE_TOPOLOGY", "false".to_owned()),
        ]
    }
}

fn variable(name: &str) -> Result<String> {
    let hint =
        format!("{name} is not set; `make demo` sets it, or: dev/with-services cargo run --example demo");
    std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| hint.into())
}

fn login_of(url: &Url) -> Login {
    let decoded = |text: &str| {
        // A form value is decoded the same way, except for the plus sign.
        let pair = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    // The default of RabbitMQ's clients when the URL has no login.
    if user.is_empty() {
        Login { user: "guest".into(), password: "guest".into() }
    } else {
        Login { user, password }
    }
}

fn with_login(mut url: Url, login: &Login) -> Url {
    // Neither call fails: these URLs have a host.
    let _ = (url.set_username(&login.user), url.set_password(Some(&login.password)));
    url
}

fn password() -> Result<String> {
    let mut bytes = [0; 12];
    let mut source = std::fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
