//! What the errors of libraries say, without what the libraries put around it.

/// An error in the server's own words with its SQLSTATE; the driver's text adds the line of the server's source code.
#[must_use]
pub fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            format!("{} (SQLSTATE {})", error.message(), error.code().unwrap_or_default())
        }
        // The driver puts one into another.
        sqlx::Error::Configuration(problem) => {
            problem.downcast_ref::<sqlx::Error>().map_or_else(|| problem.to_string(), words)
        }
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => "no connection became free in time".to_owned(),
        other => other.to_string(),
    }
}

/// Whether an error is of the resolver; the standard library has no kind for it either.
#[must_use]
pub fn is_unresolved_host(text: &str) -> bool {
    text.contains("failed to lookup address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_resolver_says_is_taken_for_an_unknown_name() {
        assert!(is_unresolved_host("failed to lookup address information: Name or service not known"));
        assert!(is_unresolved_host(
            "failed to lookup address information: Temporary failure in name resolution"
        ));
        for other in ["Connection refused (os error 111)", "Too many open files (os error 24)", ""] {
            assert!(!is_unresolved_host(other), "{other}");
        }
    }
}
