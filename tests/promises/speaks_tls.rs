//! Pods and broker may be in different networks: with `amqps` everything between them is encrypted, and a pod says nothing
//! to a broker whose certificate it has no reason to trust.

use std::time::Duration;

use url::Url;

use crate::harness::{Terminator, World, env};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn orders_are_closed_over_tls_and_frames_are_checked_there_too() {
    World::with(async |world| {
        let broker = Terminator::before(&world.amqp_url, &world.name).await;
        let mut deployment = world.deployment();
        // Only the test's own certificate; what the machine trusts is put aside.
        deployment.settings.push(("SSL_CERT_FILE", broker.certificate.display().to_string()));
        let arguments = ["run", "--amqp-url", &broker.url, "--sweep-grace", "1h"];
        let pod = world.process_of(deployment, &arguments);
        world.consumed(&world.names.process(), 1).await;
        world.stock(1, 1_000).await;
        world.raw().await.publish("order.process", 0x8000, b"\x01\xff", b"no text").await;
        world.place_many(300, SECOND, 2 * SECOND, &[(1, 1)]).await;
        world.all_settled().await;
        assert_eq!(world.statuses().await["CLOSED"], 300);
        world.assert_stock_conserved(1_000).await;
        assert_eq!(world.parked(1).await[0]["body"], "no text");
        pod.stopped().await;
    })
    .await;
}

#[tokio::test]
async fn a_management_api_with_a_private_certificate_is_trusted_as_the_broker_is() {
    World::with(async |world| {
        world.declare().await;
        let plain = with_login(&env("OVERDUE_MANAGEMENT_URL"), &world.amqp_url);
        let api = Terminator::before(&plain, &format!("{}-api", world.name)).await;
        let verify = ["topology", "verify", "--management-url", &api.url];
        world.fails(&verify, &["https://", "certificate", "SSL_CERT_FILE"], &["rabbitmq-plugins"]).await;
        let trusting = world.command(&verify).env("SSL_CERT_FILE", &api.certificate).output().await;
        let trusting = trusting.expect("it ran");
        assert_eq!(trusting.status.code(), Some(0), "{trusting:?}");
    })
    .await;
}

/// A URL with the user and password of another one, unless it has its own.
fn with_login(url: &str, login: &str) -> String {
    let (mut url, login) = (Url::parse(url).expect("a URL"), Url::parse(login).expect("a URL"));
    if url.username().is_empty() {
        url.set_username(login.username()).expect("a URL with a user");
        url.set_password(login.password()).expect("a URL with a password");
    }
    url.into()
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_and_the_error_says_so() {
    World::with(async |world| {
        let broker = Terminator::before(&world.amqp_url, &world.name).await;
        let (code, _, error) = world.run(&["topology", "declare", "--amqp-url", &broker.url]).await;
        assert_eq!(code, 1, "{error}");
        for word in ["amqps://", "certificate", "SSL_CERT_FILE"] {
            assert!(error.contains(word), "it does not say `{word}`: {error}");
        }
    })
    .await;
}
