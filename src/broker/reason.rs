//! What a broker means by a refusal. The codes of AMQP say too little: one code stands for a limit that was reached, for a
//! queue with other arguments, and for an acknowledgement that came late. All decisions from a broker's text are here.

use std::sync::Arc;

use lapin::ErrorKind;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// What is behind a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// User or password.
    Login,
    /// No such vhost, or no permission on it.
    Vhost,
    /// A permission on a queue or exchange.
    Permission,
    /// A queue or exchange exists with another type or other arguments.
    Mismatch,
    /// A queue or exchange is not there.
    Missing,
    /// The vhost, or the broker, has as many queues as it may have.
    QueueLimit,
    /// User, vhost or node has as many connections or channels as it may have. That passes.
    SessionLimit,
    /// Anything else. The safe reading: the connection or channel is lost, and a new one may fare better.
    Other,
}

/// The reason behind a client's error.
pub(super) fn reason(error: &lapin::Error) -> Reason {
    match error.kind() {
        ErrorKind::ProtocolError(error) => of_protocol(error),
        _ => Reason::Other,
    }
}

fn of_protocol(error: &AMQPError) -> Reason {
    let text = error.get_message().as_str();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if text.contains("Login was refused") => {
            Reason::Login
        }
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Reason::Permission,
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Reason::Missing,
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if text.contains("queue limit in") => {
            Reason::QueueLimit
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if text.contains("inequivalent arg") => {
            Reason::Mismatch
        }
        // Before the vhost: the refusal of one more connection names the vhost too.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
            if text.contains("limit") && (text.contains("connection") || text.contains("channels")) =>
        {
            Reason::SessionLimit
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("vhost") => Reason::Vhost,
        _ => Reason::Other,
    }
}

/// An error in the broker's own words, without the client's description of their kind.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        // Its own text is the parser's state.
        ErrorKind::ParsingError(_) => "its answer is not AMQP".to_owned(),
        _ => error.to_string(),
    }
}

/// What to do when a connection fails, from what the client or the TLS library says.
pub(super) fn connecting(tls: bool, error: &lapin::Error) -> &'static str {
    match error.kind() {
        ErrorKind::IOError(error) => of_io(tls, error),
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => NOT_AMQP,
        _ => CHECK,
    }
}

const CHECK: &str = "check amqp_url (AMQP_URL) and that RabbitMQ runs there";
const NOT_AMQP: &str =
    "write amqps:// in amqp_url (AMQP_URL) if that port speaks TLS, or name the port of AMQP, 5672";
const NOT_TLS: &str = "that port does not speak TLS: write amqp:// in amqp_url (AMQP_URL), or name the port of AMQP with TLS, 5671";

fn of_io(tls: bool, error: &Arc<std::io::Error>) -> &'static str {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(23 | 24) => {
            return "this process may not open more files: raise its limit (`ulimit -n`, LimitNOFILE in systemd)";
        }
        Some(_) => return CHECK,
        None => {}
    }
    if crate::database::unresolved(&text) {
        return "check the host in amqp_url (AMQP_URL): its name cannot be resolved";
    }
    match tls {
        true if text.contains("corrupt message") || text.contains("handshake eof") => NOT_TLS,
        false if text.contains("connection aborted") => {
            "what answers there is not RabbitMQ, or wants TLS: check the port in amqp_url (AMQP_URL), and write amqps:// for TLS"
        }
        _ => CHECK,
    }
}

/// Whether an error is about the broker's certificate; it comes from the TLS library, as an I/O error.
pub(super) fn untrusted(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(error) if error.to_string().contains("certificate"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// What RabbitMQ 3.10.8 and 4.3.6 say; where there are two, the first is the old one's.
    #[test]
    fn the_texts_of_both_brokers_are_understood_and_an_unknown_one_is_nobodys_fault() {
        use AMQPHardError::{CONNECTIONFORCED, INTERNALERROR, NOTALLOWED};
        use AMQPSoftError::{ACCESSREFUSED, NOTFOUND, PRECONDITIONFAILED, RESOURCELOCKED};
        let soft: [(AMQPSoftError, &str, Reason); 16] = [
            (
                ACCESSREFUSED,
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
                Reason::Login,
            ),
            (
                ACCESSREFUSED,
                "ACCESS_REFUSED - access to exchange 'order.exchange' in vhost 'v' refused for user 'u'",
                Reason::Permission,
            ),
            (
                ACCESSREFUSED,
                "ACCESS_REFUSED - write access to exchange 'order.exchange' in vhost 'v' refused for user 'u'",
                Reason::Permission,
            ),
            (
                ACCESSREFUSED,
                "ACCESS_REFUSED - access to topic 'order.x' in exchange 'order.exchange' in vhost 'v' refused for user 'u'",
                Reason::Permission,
            ),
            (NOTFOUND, "NOT_FOUND - no queue 'order.process.queue' in vhost 'v'", Reason::Missing),
            (
                PRECONDITIONFAILED,
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'order.exchange' in vhost 'v': received 'topic' but current is 'direct'",
                Reason::Mismatch,
            ),
            (
                PRECONDITIONFAILED,
                "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'order.process.queue' in vhost 'v': received the value 'order.exchange' of type 'longstr' but current is none",
                Reason::Mismatch,
            ),
            (
                PRECONDITIONFAILED,
                "PRECONDITION_FAILED - cannot declare queue 'order.process.queue': queue limit in vhost 'v' (2) is reached",
                Reason::QueueLimit,
            ),
            (
                PRECONDITIONFAILED,
                "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in cluster (2) is reached",
                Reason::QueueLimit,
            ),
            (PRECONDITIONFAILED, "PRECONDITION_FAILED - unknown delivery tag 9", Reason::Other),
            (
                PRECONDITIONFAILED,
                "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms",
                Reason::Other,
            ),
            (PRECONDITIONFAILED, "PRECONDITION_FAILED - something of a later version", Reason::Other),
            (PRECONDITIONFAILED, "", Reason::Other),
            (
                RESOURCELOCKED,
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'",
                Reason::Other,
            ),
            (ACCESSREFUSED, "ACCESS_REFUSED - something of a later version", Reason::Permission),
            (NOTFOUND, "", Reason::Missing),
        ];
        let hard: [(AMQPHardError, &str, Reason); 11] = [
            (NOTALLOWED, "NOT_ALLOWED - vhost nope not found", Reason::Vhost),
            (NOTALLOWED, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", Reason::Vhost),
            (
                NOTALLOWED,
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (0) is reached",
                Reason::SessionLimit,
            ),
            (
                NOTALLOWED,
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (0) is reached",
                Reason::SessionLimit,
            ),
            (
                NOTALLOWED,
                "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of (0)",
                Reason::SessionLimit,
            ),
            (
                NOTALLOWED,
                "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of 0",
                Reason::SessionLimit,
            ),
            (
                NOTALLOWED,
                "NOT_ALLOWED - negotiated frame_max = 1 is lower than the minimum allowed value (4096)",
                Reason::Other,
            ),
            (NOTALLOWED, "", Reason::Other),
            (
                INTERNALERROR,
                "INTERNAL_ERROR - access to vhost 'v' refused for user 'u': vhost 'v' is down",
                Reason::Other,
            ),
            (
                CONNECTIONFORCED,
                "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
                Reason::Other,
            ),
            (CONNECTIONFORCED, "CONNECTION_FORCED - Node was put into maintenance mode", Reason::Other),
        ];
        let soft = soft.map(|(code, text, reason)| (AMQPError::new(code.into(), text.into()), reason));
        let hard = hard.map(|(code, text, reason)| (AMQPError::new(code.into(), text.into()), reason));
        for (error, expected) in soft.into_iter().chain(hard) {
            assert_eq!(of_protocol(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_connection_that_fails_names_what_to_change() {
        let said = |tls, error: io::Error| connecting(tls, &ErrorKind::IOError(Arc::new(error)).into());
        for (tls, error, expected) in [
            (true, io::Error::other("received corrupt message of type InvalidContentType"), NOT_TLS),
            (true, io::Error::other("tls handshake eof"), NOT_TLS),
            (false, io::Error::from_raw_os_error(111), CHECK),
            (true, io::Error::from_raw_os_error(111), CHECK),
            (false, io::Error::other("something of a later version"), CHECK),
        ] {
            assert_eq!(said(tls, error), expected);
        }
        assert!(said(false, io::Error::from_raw_os_error(24)).contains("LimitNOFILE"));
        assert!(said(false, io::Error::other("connection aborted")).contains("amqps://"));
        let unresolved = "failed to lookup address information: Name or service not known";
        assert!(said(true, io::Error::other(unresolved)).contains("cannot be resolved"));
    }
}
