//! A breaker between a pod and the database or the broker: it forwards, cuts or stalls TCP connections.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::Url;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything passes.
    Up,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Connections stay open, and nothing passes: a dead network, or a server that hangs.
    Stalled,
}

/// A proxy in front of one server; it ends when it is dropped.
pub struct Breaker {
    /// The server's URL with the breaker's address in it.
    pub url: String,
    line: Arc<watch::Sender<Line>>,
    accepting: AbortHandle,
}

impl Breaker {
    /// Stands in front of the server that this URL names.
    pub async fn before(url: &str) -> Self {
        let mut through = Url::parse(url).expect("a URL");
        let default = if through.scheme().starts_with("amqp") { 5672 } else { 5432 };
        let server = (through.host_str().expect("a host").to_owned(), through.port().unwrap_or(default));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        through.set_host(Some("127.0.0.1")).expect("a host can be set");
        through.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port can be set");
        let line = Arc::new(watch::Sender::new(Line::Up));
        let lines = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                tokio::spawn(connection(client, server.clone(), lines.subscribe()));
            }
        });
        Self { url: through.into(), line, accepting: accepting.abort_handle() }
    }

    /// Changes what becomes of connections, those that are open included.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.set(Line::Cut);
        self.accepting.abort();
    }
}

/// Forwards one connection until an end closes it or it is cut.
async fn connection(client: TcpStream, server: (String, u16), mut line: watch::Receiver<Line>) {
    // A new connection on a stalled line is accepted, as a kernel does, and then hears nothing.
    let Ok(Line::Up) = line.wait_for(|line| *line != Line::Stalled).await.map(|line| *line) else {
        return;
    };
    let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)).await else {
        return;
    };
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let mut cut = line.clone();
    tokio::select! {
        () = forward(client_in, server_out, line.clone()) => {}
        () = forward(server_in, client_out, line) => {}
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        if line.wait_for(|line| *line != Line::Stalled).await.is_err()
            || to.write_all(&bytes[..read]).await.is_err()
        {
            return;
        }
    }
}
