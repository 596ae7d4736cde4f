//! A breaker between a pod and the database or the broker: it forwards, cuts or stalls TCP connections.

use std::pin::pin;
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

/// The line, and how often its connections have gone silent.
#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    silences: u32,
}

/// A proxy in front of one server; it ends when it is dropped.
pub struct Breaker {
    /// The server's URL with the breaker's address in it.
    pub url: String,
    state: Arc<watch::Sender<State>>,
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
        let state = Arc::new(watch::Sender::new(State { line: Line::Up, silences: 0 }));
        let states = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                tokio::spawn(connection(client, server.clone(), states.subscribe()));
            }
        });
        Self { url: through.into(), state, accepting: accepting.abort_handle() }
    }

    /// Changes what becomes of connections, those that are open included.
    pub fn set(&self, line: Line) {
        self.state.send_modify(|state| state.line = line);
    }

    /// The connections that are open now stay open and never hear anything again, as when a firewall has forgotten
    /// them; new ones pass.
    pub fn silence(&self) {
        self.state.send_modify(|state| state.silences += 1);
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.set(Line::Cut);
        self.accepting.abort();
    }
}

/// Forwards one connection until an end closes it or it is cut.
async fn connection(client: TcpStream, server: (String, u16), mut state: watch::Receiver<State>) {
    // A new connection on a stalled line is accepted, as a kernel does, and then hears nothing.
    let Ok(State { line: Line::Up, silences }) = passing(&mut state).await else { return };
    let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)).await else { return };
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let (mut cut, mut silent) = (state.clone(), state.clone());
    let (there, back) = (state.clone(), state.clone());
    let mut forwarding = pin!(async {
        tokio::select! {
            () = forward(client_in, server_out, there) => {}
            () = forward(server_in, client_out, back) => {}
        }
    });
    tokio::select! {
        () = &mut forwarding => {}
        () = until(&mut cut, |state| state.line == Line::Cut) => {}
        // Both sockets stay open, and nobody reads them.
        () = until(&mut silent, |state| state.silences > silences) => {
            until(&mut state, |state| state.line == Line::Cut).await;
        }
    }
}

async fn until(state: &mut watch::Receiver<State>, holds: impl FnMut(&State) -> bool) {
    // An error means that the breaker is gone.
    let _ = state.wait_for(holds).await;
}

/// The state, as soon as the line is not stalled.
async fn passing(state: &mut watch::Receiver<State>) -> Result<State, watch::error::RecvError> {
    state.wait_for(|state| state.line != Line::Stalled).await.map(|state| *state)
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        if passing(&mut state).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
