use std::io;

use super::*;

/// Texts of RabbitMQ 3.10.8 and 4.3.6 when they close a channel.
const SOFT: [(AMQPSoftError, &str, Reason); 16] = [
    (
        AMQPSoftError::ACCESSREFUSED,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
        Reason::Login,
    ),
    (
        AMQPSoftError::ACCESSREFUSED,
        "ACCESS_REFUSED - access to exchange 'order.exchange' in vhost 'v' refused for user 'u'",
        Reason::Permission,
    ),
    (
        AMQPSoftError::ACCESSREFUSED,
        "ACCESS_REFUSED - write access to exchange 'order.exchange' in vhost 'v' refused for user 'u'",
        Reason::Permission,
    ),
    (
        AMQPSoftError::ACCESSREFUSED,
        "ACCESS_REFUSED - access to topic 'order.x' in exchange 'order.exchange' in vhost 'v' refused for user 'u'",
        Reason::Permission,
    ),
    (AMQPSoftError::NOTFOUND, "NOT_FOUND - no queue 'order.process.queue' in vhost 'v'", Reason::Missing),
    (
        AMQPSoftError::PRECONDITIONFAILED,
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'order.exchange' in vhost 'v': received 'topic' but current is 'direct'",
        Reason::Mismatch,
    ),
    (
        AMQPSoftError::PRECONDITIONFAILED,
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'order.process.queue' in vhost 'v': received the value 'order.exchange' of type 'longstr' but current is none",
        Reason::Mismatch,
    ),
    (
        AMQPSoftError::PRECONDITIONFAILED,
        "PRECONDITION_FAILED - cannot declare queue 'order.process.queue': queue limit in vhost 'v' (2) is reached",
        Reason::QueueLimit,
    ),
    (
        AMQPSoftError::PRECONDITIONFAILED,
        "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in cluster (2) is reached",
        Reason::QueueLimit,
    ),
    (AMQPSoftError::PRECONDITIONFAILED, "PRECONDITION_FAILED - unknown delivery tag 9", Reason::Other),
    (
        AMQPSoftError::PRECONDITIONFAILED,
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms",
        Reason::Other,
    ),
    (AMQPSoftError::PRECONDITIONFAILED, "PRECONDITION_FAILED - something of a later version", Reason::Other),
    (AMQPSoftError::PRECONDITIONFAILED, "", Reason::Other),
    (
        AMQPSoftError::RESOURCELOCKED,
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q'",
        Reason::Other,
    ),
    (AMQPSoftError::ACCESSREFUSED, "ACCESS_REFUSED - something of a later version", Reason::Permission),
    (AMQPSoftError::NOTFOUND, "", Reason::Missing),
];

/// Texts of the same versions when they close a connection.
const HARD: [(AMQPHardError, &str, Reason); 11] = [
    (AMQPHardError::NOTALLOWED, "NOT_ALLOWED - vhost nope not found", Reason::Vhost),
    (AMQPHardError::NOTALLOWED, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", Reason::Vhost),
    (
        AMQPHardError::NOTALLOWED,
        "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (0) is reached",
        Reason::SessionLimit,
    ),
    (
        AMQPHardError::NOTALLOWED,
        "NOT_ALLOWED - connection refused for user 'u': user connection limit (0) is reached",
        Reason::SessionLimit,
    ),
    (
        AMQPHardError::NOTALLOWED,
        "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of (0)",
        Reason::SessionLimit,
    ),
    (
        AMQPHardError::NOTALLOWED,
        "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of 0",
        Reason::SessionLimit,
    ),
    (
        AMQPHardError::NOTALLOWED,
        "NOT_ALLOWED - negotiated frame_max = 1 is lower than the minimum allowed value (4096)",
        Reason::Other,
    ),
    (AMQPHardError::NOTALLOWED, "", Reason::Other),
    (
        AMQPHardError::INTERNALERROR,
        "INTERNAL_ERROR - access to vhost 'v' refused for user 'u': vhost 'v' is down",
        Reason::Other,
    ),
    (
        AMQPHardError::CONNECTIONFORCED,
        "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
        Reason::Other,
    ),
    (
        AMQPHardError::CONNECTIONFORCED,
        "CONNECTION_FORCED - Node was put into maintenance mode",
        Reason::Other,
    ),
];

#[test]
fn the_texts_of_both_brokers_are_understood_and_an_unknown_one_is_nobodys_fault() {
    let soft = SOFT.map(|(code, text, reason)| (AMQPError::new(code.into(), text.into()), reason));
    let hard = HARD.map(|(code, text, reason)| (AMQPError::new(code.into(), text.into()), reason));
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

/// Reasons of the management API in RabbitMQ 3.10.8 and 4.3.6, and texts of the HTTP client.
#[test]
fn each_refusal_has_its_remedy_and_an_unknown_one_has_all() {
    for (reason, expected) in [
        ("Login failed", "user and password"),
        ("Not_Authorized", "user and password"),
        ("Not management user", "tag `monitoring`"),
        ("User not authorised to access virtual host", "permissions on the vhost"),
        ("", "user and password"),
        ("something of a later version", "tag"),
    ] {
        assert!(refused(reason).contains(expected), "{reason}: {}", refused(reason));
    }
    assert!(!refused("Login failed").contains("tag"));
    for (text, expected) in [
        ("io: received corrupt message of type InvalidContentType", "http://"),
        ("io: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ("protocol: http parse fail: invalid HTTP version", "15672"),
        ("io: Connection refused (os error 111)", "rabbitmq_management"),
        ("something of a later version", "management_url"),
    ] {
        assert!(unreached(text).contains(expected), "{text}: {}", unreached(text));
    }
}
