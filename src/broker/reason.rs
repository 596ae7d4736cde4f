//! What a broker means by a refusal. AMQP's codes are too coarse: one code stands for a limit that is reached, for a queue
//! with other arguments, and for a late acknowledgement. All decisions that depend on the text of a broker or its client
//! are here, and each has a safe reading for an unknown text.

use std::sync::Arc;

use lapin::ErrorKind;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::error_text;

/// The cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Wrong user or password.
    Login,
    /// No such vhost, or no permission on it.
    Vhost,
    /// A missing permission on a queue or exchange.
    Permission,
    /// A queue or exchange exists with another type or other arguments.
    Mismatch,
    /// A queue or exchange does not exist.
    Missing,
    /// The queue limit of the vhost or the broker is reached.
    QueueLimit,
    /// The connection or channel limit of the user, vhost or node is reached. A retry can succeed.
    SessionLimit,
    /// Anything else. The safe reading: the connection or channel is lost, and a new one may work.
    Other,
}

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
        // Before the vhost: the refusal of a connection over the limit names the vhost too.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
            if text.contains("limit") && (text.contains("connection") || text.contains("channels")) =>
        {
            Reason::SessionLimit
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.contains("vhost") => Reason::Vhost,
        _ => Reason::Other,
    }
}

/// The broker's own text of an error, without the client's description of its kind.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        // The error's own text is the parser's state.
        ErrorKind::ParsingError(_) => "its answer is not AMQP".to_owned(),
        _ => error.to_string(),
    }
}

/// The remedy for a failed connection, from the text of the client or the TLS library.
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
    if error_text::is_unresolved_host(&text) {
        return "check the host in amqp_url (AMQP_URL): its name cannot be resolved";
    }
    match tls {
        true if text.contains("corrupt message") || text.contains("handshake eof") => NOT_TLS,
        false if text.contains("connection aborted") => {
            "that port is not RabbitMQ's, or it expects TLS: check the port in amqp_url (AMQP_URL), and write amqps:// for TLS"
        }
        _ => CHECK,
    }
}

/// Whether an error is about the broker's certificate; the TLS library reports such an error as an I/O error.
pub(super) fn untrusted(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::IOError(error) if error.to_string().contains("certificate"))
}

/// The remedy where the management API gives no answer, from the client's text.
pub(super) fn unreached(text: &str) -> &'static str {
    if text.contains("corrupt message") || text.contains("handshake eof") {
        "write http:// in management_url (OVERDUE_MANAGEMENT_URL): that port does not speak TLS"
    } else if text.contains("certificate") {
        "its certificate cannot be trusted: name the file of its certificate authority in SSL_CERT_FILE, and use the host \
         name of the certificate in management_url (OVERDUE_MANAGEMENT_URL)"
    } else if text.contains("http parse fail") || text.starts_with("protocol:") {
        "name the port of the management API in management_url (OVERDUE_MANAGEMENT_URL), 15672, or 15671 with https://: \
         another service answers at this one"
    } else {
        "enable it with `rabbitmq-plugins enable rabbitmq_management`, or set management_url (OVERDUE_MANAGEMENT_URL)"
    }
}

/// The remedy where the management API refuses, from the reason that it gives.
pub(super) fn refused(reason: &str) -> &'static str {
    match reason {
        "Not management user" => "the user needs the tag `monitoring` (or `management`)",
        "User not authorised to access virtual host" => "the user needs permissions on the vhost",
        // The wording depends on RabbitMQ's version.
        "Login failed" | "Not_Authorized" => {
            "check user and password in management_url (OVERDUE_MANAGEMENT_URL); without a user there, those of amqp_url \
             (AMQP_URL) are used"
        }
        _ => {
            "check user and password in management_url (OVERDUE_MANAGEMENT_URL), and that the user has the tag \
             `monitoring` and permissions on the vhost"
        }
    }
}

#[cfg(test)]
mod tests;
