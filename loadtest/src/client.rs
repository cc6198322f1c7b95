//! One blocking connection for what is done before and after a measurement: definitions, data,
//! metrics.
//!
//! It does not know what is said over it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::failure::{At, Failure, Outcome};
use crate::target::{Address, Protocol, Target};
use crate::wire::{Progress, Reader, http, resp};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection.
pub(crate) struct Client {
    name: String,
    host: String,
    stream: Stream,
    reader: Reader,
    received: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// Connects to `target`.
    pub(crate) fn connect(target: &Target) -> Outcome<Self> {
        let place = || format!("cannot connect to {}", target.name);
        let stream = match &target.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).at(place())?;
                stream.set_nodelay(true).at(place())?;
                stream.set_read_timeout(Some(PATIENCE)).at(place())?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).at(place())?;
                stream.set_read_timeout(Some(PATIENCE)).at(place())?;
                Stream::Unix(stream)
            }
        };
        let reader = match target.protocol {
            Protocol::Redis => Reader::Resp(resp::Reader::default()),
            _ => Reader::Http(http::Reader::default()),
        };
        let host = target.address.host();
        Ok(Self { name: target.name.clone(), host, stream, reader, received: Vec::new() })
    }

    /// Gets a page.
    pub(crate) fn get(&mut self, path: &str) -> Outcome<Reply> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        self.exchange(request.as_bytes(), 1)
    }

    /// Posts JSON, which has to be taken well.
    pub(crate) fn post(&mut self, path: &str, json: &[u8]) -> Outcome<Reply> {
        let (host, length) = (&self.host, json.len());
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        )
        .into_bytes();
        request.extend_from_slice(json);
        let reply = self.exchange(&request, 1)?;
        if !(200..300).contains(&reply.status) {
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            let (name, status) = (&self.name, reply.status);
            return Err(Failure::new(format!("{name}: POST {path} was answered {status}: {said}")));
        }
        Ok(reply)
    }

    /// Sends `request` and waits for the whole answer of so many replies.
    pub(crate) fn exchange(&mut self, request: &[u8], replies: usize) -> Outcome<Reply> {
        self.reader.begin(replies);
        self.received.clear();
        self.stream.write(request).at(&self.name)?;
        let mut part = vec![0; 64 << 10];
        loop {
            let read = self.stream.read(&mut part).at(&self.name)?;
            if read == 0 {
                return Err(Failure::new(format!("{} closed the connection", self.name)));
            }
            self.received.extend_from_slice(&part[..read]);
            match self.reader.read(&self.received) {
                Progress::Partial => {}
                Progress::Broken(why) => return Err(Failure::new(why)).at(&self.name),
                Progress::Whole(answer) => {
                    let (head, body) = self.received.split_at(answer.body);
                    let (head, body) = (head.to_vec(), body.to_vec());
                    return Ok(Reply { status: answer.status, head, body });
                }
            }
        }
    }
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}
