//! A publisher that speaks AMQP by hand, so that it can send what no client library would.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::world::World;

/// Frame types.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// The flags of the properties that tests set; they follow in this order.
pub const CONTENT_TYPE: u16 = 1 << 15;
pub const HEADERS: u16 = 1 << 13;
pub const EXPIRATION: u16 = 1 << 8;

/// A connection with a channel in confirm mode.
pub struct Raw {
    stream: TcpStream,
    exchange: String,
}

/// A string with its length in one byte.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")], text].concat()
}

/// A string, or a table, with its length in four bytes.
pub fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("a long string").to_be_bytes(), text].concat()
}

impl World {
    /// Connects by hand.
    pub async fn raw(&self) -> Raw {
        let url = Url::parse(&self.amqp_url).expect("a URL");
        let address = (url.host_str().expect("a host"), url.port().unwrap_or(5672));
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let mut raw = Raw { stream, exchange: self.names.exchange() };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").await.expect("sent");
        raw.read(10, 10).await;
        let login = format!("\0{}\0{}", url.username(), url.password().unwrap_or_default());
        let start_ok = [long(b""), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat();
        raw.method(0, 10, 11, &start_ok).await;
        let tune = raw.read(10, 30).await;
        // As it is offered, without heartbeats.
        raw.method(0, 10, 31, &[&tune[..6], &[0, 0]].concat()).await;
        raw.method(0, 10, 40, &[short(self.name.as_bytes()), short(b""), vec![0]].concat()).await;
        raw.read(10, 41).await;
        raw.method(1, 20, 10, &short(b"")).await;
        raw.read(20, 11).await;
        raw.method(1, 85, 10, &[0]).await;
        raw.read(85, 11).await;
        raw
    }
}

impl Raw {
    /// Publishes a body with these flags and properties, byte for byte, and waits for the confirm.
    pub async fn publish(&mut self, key: &str, flags: u16, properties: &[u8], body: &[u8]) {
        let exchange = short(self.exchange.as_bytes());
        let publish = [&[0, 0], exchange.as_slice(), &short(key.as_bytes()), &[0]].concat();
        self.method(1, 60, 40, &publish).await;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&60_u16.to_be_bytes()[..], &[0, 0], &size, &flags.to_be_bytes(), properties].concat();
        self.frame(HEADER, 1, &header).await;
        if !body.is_empty() {
            self.frame(BODY, 1, body).await;
        }
        self.read(60, 80).await;
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind], &channel.to_be_bytes()[..], &long(payload), &[0xCE]].concat();
        self.stream.write_all(&frame).await.expect("sent");
    }

    /// Reads one method and returns its arguments.
    async fn read(&mut self, class: u16, method: u16) -> Vec<u8> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; length + 1];
        self.stream.read_exact(&mut payload).await.expect("a whole frame");
        payload.pop();
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        assert_eq!(payload[..4], expected, "the broker said {:?}", String::from_utf8_lossy(&payload));
        payload.split_off(4)
    }
}
