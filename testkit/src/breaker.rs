//! A breaker between a pod and a server: it forwards, cuts, stalls or silences TCP connections, and can make the broker
//! close a channel.

use std::io;
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

/// The line, and how often its connections were silenced or disturbed.
#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    silences: u32,
    disturbances: u32,
}

/// A proxy in front of one server; it ends when it is dropped.
#[derive(Debug)]
pub struct Breaker {
    /// The server's URL with the breaker's address in it.
    pub url: String,
    state: Arc<watch::Sender<State>>,
    accepting: AbortHandle,
}

impl Breaker {
    /// Stands in front of the server that this URL names.
    pub async fn before(url: &str) -> io::Result<Self> {
        let mut through = Url::parse(url).map_err(io::Error::other)?;
        let amqp = through.scheme().starts_with("amqp");
        let default = if amqp { 5672 } else { 5432 };
        let server =
            (through.host_str().unwrap_or("localhost").to_owned(), through.port().unwrap_or(default));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        through.set_host(Some("127.0.0.1")).map_err(io::Error::other)?;
        let _ = through.set_port(Some(address.port()));
        let state = Arc::new(watch::Sender::new(State { line: Line::Up, silences: 0, disturbances: 0 }));
        let states = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server.clone(), amqp, states.subscribe()));
            }
        });
        Ok(Self { url: through.into(), state, accepting: accepting.abort_handle() })
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

    /// The broker receives an acknowledgement that it did not expect, on the first channel of every connection: it
    /// closes the channel with 406 PRECONDITION_FAILED.
    pub fn disturb(&self) {
        self.state.send_modify(|state| state.disturbances += 1);
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.set(Line::Cut);
        self.accepting.abort();
    }
}

/// Forwards one connection until an end closes it or it is cut.
async fn connection(client: TcpStream, server: (String, u16), amqp: bool, mut state: watch::Receiver<State>) {
    // A new connection on a stalled line is accepted, as a kernel does, and then hears nothing.
    let Ok(State { line: Line::Up, silences, .. }) = passing(&mut state).await else { return };
    let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let (mut cut, mut silent) = (state.clone(), state.clone());
    let (there, back) = (state.clone(), state.clone());
    let mut forwarding = std::pin::pin!(async {
        tokio::select! {
            () = async {
                if amqp { forward_frames(client_in, server_out, there).await }
                else { forward(client_in, server_out, there).await }
            } => {}
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

/// basic.ack of a delivery that never was, on channel 1 (AMQP 0-9-1, sections 2.3.5 and 1.8.3.13).
const UNKNOWN_ACK: &[u8] = &[
    1, 0, 1, 0, 0, 0, 13, // a method frame on channel 1, 13 bytes
    0, 60, 0, 80, // basic.ack
    0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0,    // delivery tag, not multiple
    0xCE, // frame end
];

/// As [`forward`], but only whole frames, so that one of ours can be put between them.
async fn forward_frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut greeting = [0; 8];
    if from.read_exact(&mut greeting).await.is_err() || to.write_all(&greeting).await.is_err() {
        return;
    }
    let (mut buffer, mut disturbances) = (Vec::with_capacity(64 * 1024), state.borrow().disturbances);
    let mut watched = state.clone();
    loop {
        tokio::select! {
            read = from.read_buf(&mut buffer) => {
                let Ok(1..) = read else { return };
                let whole = whole_frames(&buffer);
                if passing(&mut state).await.is_err() || to.write_all(&buffer[..whole]).await.is_err() {
                    return;
                }
                buffer.drain(..whole);
            }
            () = until(&mut watched, |state| state.disturbances > disturbances) => {
                disturbances = watched.borrow().disturbances;
                if to.write_all(UNKNOWN_ACK).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// How many of these bytes are frames with nothing missing.
fn whole_frames(bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(&[_, _, _, a, b, c, d]) = bytes.get(whole..whole + 7) {
        let end = whole + 7 + u32::from_be_bytes([a, b, c, d]) as usize + 1;
        if end > bytes.len() {
            break;
        }
        whole = end;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_count() {
        assert_eq!(whole_frames(UNKNOWN_ACK), UNKNOWN_ACK.len());
        let two: Vec<u8> = UNKNOWN_ACK.repeat(2);
        assert_eq!(whole_frames(&two[..two.len() - 1]), UNKNOWN_ACK.len());
        assert_eq!(whole_frames(&two[..5]), 0);
    }
}
