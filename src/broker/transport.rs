//! Connects with [`FrameFilter`] between the socket (TLS included) and the client library, and closes abandoned sockets.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::{DummyIO, RuntimeParts};
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::frames::FrameFilter;

/// A connection whose socket closes when this value is dropped. The library alone may keep a dropped connection open, and
/// the broker would go on sending its consumers messages that are never read.
#[derive(Debug)]
pub struct BrokerConnection {
    connection: Connection,
    /// Ends reading from the socket when dropped.
    _wanted: oneshot::Sender<()>,
}

impl Deref for BrokerConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Connects to one of the addresses of the URL's host, see [`connect_to_one_of`].
///
/// # Errors
/// As [`connect_to_one_of`]; within, also a URL that cannot be parsed and a name that cannot be resolved.
pub async fn connect(
    uri: &str,
    properties: ConnectionProperties,
    limit: Duration,
) -> Result<lapin::Result<BrokerConnection>, Elapsed> {
    let uri: AMQPUri = match uri.parse() {
        Ok(uri) => uri,
        Err(error) => return Ok(Err(failed(io::Error::other(error)))),
    };
    let addresses = tokio::net::lookup_host((uri.authority.host.as_str(), uri.authority.port)).await;
    match addresses.map(Iterator::collect::<Vec<_>>) {
        Ok(addresses) => connect_to_one_of(&addresses, uri, properties, limit).await,
        Err(error) => Ok(Err(failed(error))),
    }
}

/// Connects to the first address that answers. Each address has its share of the time, because one may accept the connection
/// and then stay silent.
///
/// # Errors
/// [`Elapsed`] when the last address stays silent; within, the library's own errors.
pub async fn connect_to_one_of(
    addresses: &[SocketAddr],
    uri: AMQPUri,
    properties: ConnectionProperties,
    limit: Duration,
) -> Result<lapin::Result<BrokerConnection>, Elapsed> {
    let until = tokio::time::Instant::now() + limit;
    let mut last = Ok(Err(failed(io::Error::other("the host name has no address"))));
    for (n, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let share = left / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
        match timeout(share, connect_to(*address, uri.clone(), properties.clone())).await {
            // An AMQP error is final: the broker would answer the same at its other addresses.
            Ok(Err(error)) if !error.is_amqp_error() => last = Ok(Err(error)),
            Ok(answer) => return Ok(answer),
            Err(elapsed) => last = Err(elapsed),
        }
    }
    last
}

/// Connects through a [`FrameFilter`], so that the library can read whatever senders wrote.
///
/// The socket closes when this future is dropped before it is done. The library alone would wait forever, with a thread, for
/// a broker that accepts connections and says nothing: its heartbeats begin only once it is connected.
async fn connect_to(
    address: SocketAddr,
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<BrokerConnection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), Guarding(tokio.clone())));
    let (tokio, tls) = (Runtime::new(tokio), OwnedTLSConfig::default());
    let (waiting, wanted) = oneshot::channel();
    // The library calls this once: its own retries are not configured.
    let wanted = Mutex::new(Some(wanted));
    let connect = async move |uri: AMQPUri, _: Runtime<_>| {
        let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut wanted = wanted.ok_or_else(|| failed(given_up()))?;
        let opening = async {
            let socket = AsyncTcpStream::connect(&tokio, address).await?;
            match uri.scheme {
                AMQPScheme::AMQP => Ok(socket),
                // The certificate is for the host's name, not for its address.
                AMQPScheme::AMQPS => socket.into_tls(&uri.authority.host, tls.as_ref()).await,
            }
        };
        let socket = tokio::select! {
            socket = opening => socket.map_err(failed)?,
            _ = &mut wanted => return Err(failed(given_up())),
        };
        let frames = FrameFilter::of_at_most(uri.query.frame_max.unwrap_or_default() as usize);
        Ok(AsyncTcpStream::Plain(Guarded { wanted: Some(wanted), frames, ..Guarded::new(socket) }))
    };
    let connection = Connection::connector(uri, runtime, connect, properties).await?;
    Ok(BrokerConnection { connection, _wanted: waiting })
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up")
}

fn failed(error: io::Error) -> lapin::Error {
    lapin::ErrorKind::IOError(Arc::new(error)).into()
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Bytes read from the socket at once.
const CHUNK: usize = 32 * 1024;

/// A socket that is read through [`FrameFilter`].
struct Guarded {
    socket: Socket,
    frames: FrameFilter,
    chunk: Box<[u8]>,
    /// Bytes that may be forwarded, and how many of them have been.
    ready: Vec<u8>,
    passed: usize,
    /// Ready once the connection was dropped or its attempt given up.
    wanted: Option<oneshot::Receiver<()>>,
}

impl Guarded {
    fn new(socket: Socket) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { socket, frames: FrameFilter::default(), chunk, ready: Vec::new(), passed: 0, wanted: None }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(wanted) = &mut this.wanted {
            // Nothing is ever sent: the receiver is ready when its sender is dropped.
            if Pin::new(wanted).poll(cx).is_ready() {
                return Poll::Ready(Err(given_up()));
            }
        }
        while this.passed == this.ready.len() {
            this.ready.clear();
            this.passed = 0;
            let read = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.chunk))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            this.frames.feed(&this.chunk[..read], &mut this.ready);
        }
        let left = &this.ready[this.passed..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        this.passed += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// Tokio's reactor with [`Guarded`] as the type of its streams.
#[derive(Clone, Debug)]
struct Guarding(Tokio);

impl Reactor for Guarding {
    type TcpStream = Guarded;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        // The library never calls this: it only connects.
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connect = self.0.tcp_connect_addr(address);
        async { connect.await.map(|socket| Guarded::new(AsyncTcpStream::Plain(socket))) }
    }
}
