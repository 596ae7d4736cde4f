//! The addresses of database, broker and management API: checked, and printed without their passwords.

use std::fmt;

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

pub(super) fn url(value: &str, schemes: &[&str]) -> Result<SecretUrl, String> {
    // The value itself is not repeated: it may hold a password.
    let example = format!("write {}://user:password@host/name", schemes[0]);
    let url = Url::parse(value).map_err(|error| format!("not a URL ({error}); {example}"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("begins with `{}:`; {example}", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) && !value.contains("host=") {
        return Err(format!("has no host; {example}"));
    }
    Ok(SecretUrl(url))
}

pub(super) fn amqp_nodes(value: &str) -> Result<Vec<SecretUrl>, String> {
    value.split(',').map(|node| url(node.trim(), &["amqp", "amqps"])).collect()
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
        // Neither fails: both URLs have a host.
        let _ = management.set_username(broker.username());
        let _ = management.set_password(broker.password());
    }
    Ok(SecretUrl(management))
}
