//! The addresses of database, broker and management API: checked, and printed without their passwords.

use std::fmt;
use std::path::Path;

use lapin::uri::AMQPUri;
use url::Url;

/// A URL that may hold a password; it prints without it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// The URL with its secret, for the client that connects.
    #[must_use]
    pub fn reveal(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Fails only for URLs that cannot have a password.
            let _ = shown.set_password(Some("***"));
        }
        // Query parameters may carry secrets too (sslpassword and the like).
        shown.set_query(None);
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The remedy where a password or another part holds a special character.
const ENCODE: &str = "percent-encode such characters in user, password and name (`/` as %2F, `@` %40, `:` %3A, `#` %23, `?` %3F, `%` %25)";

/// Schemes that are commonly mixed up, which an error may repeat. Any other scheme may be the beginning of a password.
const SCHEMES: [&str; 9] =
    ["amqp", "amqps", "postgres", "postgresql", "mysql", "http", "https", "jdbc", "file"];

/// Reads an address.
///
/// An error repeats no part of the value but a known scheme: any other part may belong to a password.
pub(super) fn url(value: &str, schemes: &[&str]) -> Result<SecretUrl, String> {
    let example = format!("write {}://user:password@host/name", schemes[0]);
    let url = Url::parse(value).map_err(|error| format!("not a URL ({error}); {example}, and {ENCODE}"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(match url.scheme() {
            known if SCHEMES.contains(&known) => format!("begins with `{known}:`; {example}"),
            _ => format!("does not begin with `{}:`; {example}", schemes[0]),
        });
    }
    // The host ended before the `@`: part of a password was read as host or path, and would be printed.
    if [Some(url.path()), url.query(), url.fragment()].into_iter().flatten().any(|part| part.contains('@')) {
        return Err(format!("has a `@` after its host; {example}, and {ENCODE}"));
    }
    if url.fragment().is_some() {
        return Err(format!("has a `#`, after which everything is ignored; {example}, and {ENCODE}"));
    }
    if url.host_str().is_none_or(str::is_empty) && !value.contains("host=") {
        return Err(format!("has no host; {example}"));
    }
    Ok(SecretUrl(url))
}

pub(super) fn amqp_nodes(value: &str) -> Result<Vec<SecretUrl>, String> {
    let schemes = ["amqp", "amqps"];
    let nodes: Vec<_> = value.split(',').map(str::trim).collect();
    if nodes.len() > 1 && nodes.iter().any(|node| !node.contains("://")) {
        return Err(format!(
            "each node is a whole URL: write amqp://user:password@host1/vhost,amqp://user:password@host2/vhost; and \
             {ENCODE}, a comma as %2C"
        ));
    }
    nodes.into_iter().map(|node| amqp_node(url(node, &schemes)?)).collect()
}

/// Refuses what the client library would refuse later. A lone `/` after the host means the default vhost, as it does in nearly
/// every tutorial and in the secrets that RabbitMQ's operator writes; the library would take it for a vhost without a name.
fn amqp_node(SecretUrl(mut url): SecretUrl) -> Result<SecretUrl, String> {
    if url.path() == "/" {
        url.set_path("/%2f");
    }
    if url.path().trim_start_matches('/').contains('/') {
        return Err(
            "has more than one part after the host: write a `/` in the vhost's name as %2F".to_owned()
        );
    }
    for name in ["heartbeat", "frame_max", "channel_max", "connection_timeout"] {
        let said = url.query_pairs().find(|(key, _)| key == name);
        if said.is_some_and(|(_, value)| value.parse::<u32>().is_err()) {
            return Err(format!("its parameter `{name}` is not a whole number"));
        }
    }
    match url.as_str().parse::<AMQPUri>() {
        Ok(_) => Ok(SecretUrl(url)),
        Err(_) => Err(format!("cannot be used; write amqp://user:password@host/vhost, and {ENCODE}")),
    }
}

/// Parameters of a database's URL that the driver understands.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Files that a database's URL or the environment may name.
const FILES: [(&[&str], &str); 3] = [
    (&["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT"),
    (&["sslcert", "ssl-cert"], "PGSSLCERT"),
    (&["sslkey", "ssl-key"], "PGSSLKEY"),
];

pub(super) fn database(value: &str) -> Result<SecretUrl, String> {
    let SecretUrl(url) = url(value, &["postgres", "postgresql"])?;
    if url.host_str().is_some_and(|host| host.contains(',')) {
        return Err("names several hosts: name one, such as a proxy or an address that follows the primary"
            .to_owned());
    }
    for (name, value) in url.query_pairs() {
        match &*name {
            "schema" | "currentSchema" | "search_path" => {
                let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                let schema = if plain { &*value } else { "…" };
                return Err(format!(
                    "`{name}` is not a supported parameter: leave it out, and set OVERDUE_SCHEMA={schema}"
                ));
            }
            "sslmode" | "ssl-mode" if !MODES.contains(&&*value.to_ascii_lowercase()) => {
                return Err(format!("its `sslmode` is not one of {}", MODES.join(", ")));
            }
            known if PARAMETERS.contains(&known) || known.starts_with("options[") => {}
            // The driver would ignore an unknown parameter, and log it with its value.
            _ => {
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                let name = if plain { &*name } else { "…" };
                return Err(format!(
                    "`{name}` is not a supported parameter; supported are: {}",
                    PARAMETERS.join(", ")
                ));
            }
        }
    }
    for (names, variable) in FILES {
        let said =
            url.query_pairs().find(|(key, _)| names.contains(&&**key)).map(|(_, file)| file.into_owned());
        let from = if said.is_some() { names[0] } else { variable };
        let Some(file) = said.or_else(|| std::env::var(variable).ok()) else { continue };
        // The value may be the certificate or key itself instead of a file name.
        if !file.trim().starts_with("-----BEGIN") {
            readable(Path::new(&file))
                .map_err(|error| format!("{from} names the file {file}, which cannot be read: {error}"))?;
        }
    }
    Ok(SecretUrl(url))
}

fn readable(file: &Path) -> std::io::Result<()> {
    std::fs::read(file).map(|_| ())
}

pub(super) fn management(value: &str, broker: Option<&SecretUrl>) -> Result<SecretUrl, String> {
    let Some(SecretUrl(broker)) = broker else {
        return url(value, &["http", "https"]);
    };
    let SecretUrl(mut management) = if value.is_empty() {
        let (scheme, port) = if broker.scheme() == "amqps" { ("https", 15671) } else { ("http", 15672) };
        url(&format!("{scheme}://{}:{port}/", broker.host_str().unwrap_or("localhost")), &["http", "https"])?
    } else {
        url(value, &["http", "https"])?
    };
    if management.username().is_empty() {
        // Neither call fails: both URLs have a host.
        let _ = management.set_username(broker.username());
        let _ = management.set_password(broker.password());
    }
    Ok(SecretUrl(management))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that is printed about a value given as an address.
    fn printed(value: &str) -> String {
        let broker = amqp_nodes("amqp://u@h/v").expect("a broker");
        let all = [
            database(value).map(|url| vec![url]),
            amqp_nodes(value),
            management(value, broker.first()).map(|url| vec![url]),
            management(value, None).map(|url| vec![url]),
        ];
        format!("{all:?}") + &all.iter().flatten().flatten().map(ToString::to_string).collect::<String>()
    }

    proptest! {
        #[test]
        fn no_part_of_a_password_is_printed(
            parts in prop::collection::vec("[g-z]{5}|[1-5][0-9]{4}", 1..4),
            between in prop::collection::vec("[-@/:#?%,\\\\\\[\\] &=+;'\"<>!]{1,2}", 4),
            scheme in prop::sample::select(vec!["amqp", "amqps", "postgres", "postgresql", "http", "https", "mysql"]),
            path in prop::sample::select(vec!["/v", "", "/v?heartbeat=5", "/v?sslmode=disable"]),
        ) {
            let password: String = parts.iter().zip(&between).flat_map(|(part, sign)| [part.as_str(), sign]).collect();
            for password in [password.as_str(), password.trim_end_matches(|c: char| !c.is_alphanumeric())] {
                let said = printed(&format!("{scheme}://u:{password}@host.example{path}"));
                for part in &parts {
                    prop_assert!(!said.contains(part.as_str()), "{part} of {password}: {said}");
                }
            }
        }
    }
}
