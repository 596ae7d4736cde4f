//! The texts of libraries' errors, without what the libraries add.

/// An error in the server's words, with its SQLSTATE. The driver's own text would add a line of the server's source code.
#[must_use]
pub fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            format!("{} (SQLSTATE {})", error.message(), error.code().unwrap_or_default())
        }
        // The driver wraps one error in another.
        sqlx::Error::Configuration(problem) => {
            problem.downcast_ref::<sqlx::Error>().map_or_else(|| problem.to_string(), words)
        }
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => "no connection became free in time".to_owned(),
        other => other.to_string(),
    }
}

/// Whether an error is the resolver's. It is recognized by its text: the standard library has no error kind for it.
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
