//! TLS in front of a server: a certificate of the test's own, and a proxy that takes TLS off.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use url::Url;

use super::world::address;

/// The name that the certificate is for.
const HOST: &str = "localhost";

/// Stands in front of a server; it ends, and its certificate is gone, when it is dropped.
pub struct Terminator {
    /// The server's URL through it, with `amqps` or `https`.
    pub url: String,
    /// Its certificate as a file, for whoever is to trust it.
    pub certificate: PathBuf,
    accepting: AbortHandle,
}

impl Terminator {
    /// Stands in front of the server that this URL names. `name` is a part of its certificate's file name.
    pub async fn before(url: &str, name: &str) -> Self {
        let server = Url::parse(url).expect("a URL");
        let address = address(url);
        let listener = TcpListener::bind((HOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let login = &server[url::Position::BeforeUsername..url::Position::BeforeHost];
        let path = &server[url::Position::BeforePath..];

        let own = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
        let certificate = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pem"));
        std::fs::write(&certificate, own.cert.pem()).expect("a file");
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, address) = (acceptor.clone(), address.clone());
                tokio::spawn(async move {
                    // Whoever does not trust the certificate goes away; that is not the terminator's business.
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(address).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        let url = format!("{}s://{login}{HOST}:{port}{path}", server.scheme());
        Self { url, certificate, accepting: accepting.abort_handle() }
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.certificate);
    }
}
