//! A memory or disk alarm, for one test's connections only: a real one would hold up every test that shares the broker.
//!
//! A proxy that speaks AMQP's framing does what RabbitMQ does while an alarm is on: a connection that publishes is told
//! `connection.blocked`, and from that frame on nothing is read from it, whatever channel it is for, until the alarm is
//! off. Connections that only consume go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use url::Url;

/// `connection.blocked` with the reason `low on memory`, and `connection.unblocked`: method frames of channel 0.
const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x12\0\x0a\0\x3c\x0dlow on memory\xce";
const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";
/// While nothing is read from a client, RabbitMQ does not expect its heartbeats either; the proxy sends them instead.
const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xce";

/// A proxy in front of the broker; it ends when it is dropped.
pub struct Alarm {
    /// The broker's URL with the proxy's address in it.
    pub url: String,
    on: watch::Sender<bool>,
    opened: Arc<AtomicUsize>,
    blocked: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Alarm {
    /// Stands in front of the broker that this URL names; the alarm is off.
    pub async fn before(url: &str) -> Self {
        let mut through = Url::parse(url).expect("a URL");
        let server = (through.host_str().expect("a host").to_owned(), through.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        through.set_host(Some("127.0.0.1")).expect("a host can be set");
        through.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port can be set");
        let on = watch::Sender::new(false);
        let (opened, blocked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn({
            let (on, opened, blocked) = (on.subscribe(), Arc::clone(&opened), Arc::clone(&blocked));
            async move {
                loop {
                    let (client, _) = listener.accept().await.expect("a connection");
                    opened.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(connection(client, server.clone(), on.clone(), Arc::clone(&blocked)));
                }
            }
        });
        Self { url: through.into(), on, opened, blocked, accepting: accepting.abort_handle() }
    }

    /// Turns the alarm on or off.
    pub fn set(&self, on: bool) {
        self.on.send_replace(on);
    }

    /// Connections opened so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// How often a connection has been blocked so far.
    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(
    client: TcpStream,
    server: (String, u16),
    on: watch::Receiver<bool>,
    blocked: Arc<AtomicUsize>,
) {
    let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)).await else { return };
    // Small frames are not to wait for one another, as they do not without a proxy.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, mut to_client), (mut from_server, to_server)) =
        (client.into_split(), server.into_split());
    // Whole frames only, so that ours can go between two of the broker's.
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(16);
    let ours = frames.clone();
    tokio::select! {
        () = async {
            while let Some(frame) = frame(&mut from_server).await {
                if frames.send(frame).await.is_err() { return }
            }
        } => {}
        () = async {
            while let Some(frame) = outgoing.recv().await {
                if to_client.write_all(&frame).await.is_err() { return }
            }
        } => {}
        _ = to_broker(from_client, to_server, on, ours, blocked) => {}
    }
}

async fn to_broker(
    mut from: OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut on: watch::Receiver<bool>,
    to_client: mpsc::Sender<Vec<u8>>,
    blocked: Arc<AtomicUsize>,
) -> Option<()> {
    let mut header = [0; 8]; // "AMQP" and the version, before the first frame
    from.read_exact(&mut header).await.ok()?;
    to.write_all(&header).await.ok()?;
    loop {
        let frame = frame(&mut from).await?;
        let publishes = frame[0] == 1 && frame[7..].starts_with(b"\0\x3c\0\x28");
        if publishes && *on.borrow() {
            blocked.fetch_add(1, Ordering::Relaxed);
            to_client.send(BLOCKED.to_vec()).await.ok()?;
            while timeout(Duration::from_secs(1), on.wait_for(|on| !on)).await.is_err() {
                to.write_all(HEARTBEAT).await.ok()?;
            }
            to_client.send(UNBLOCKED.to_vec()).await.ok()?;
        }
        to.write_all(&frame).await.ok()?;
    }
}

/// The next frame: type, channel, size, payload, end.
async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await.ok()?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    frame.resize(7 + size + 1, 0);
    from.read_exact(&mut frame[7..]).await.ok()?;
    Some(frame)
}
