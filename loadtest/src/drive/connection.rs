//! One keep-alive connection: writes a request, reads its answer into a buffer that is kept.
//!
//! It does not know when requests are due.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use mio::event::Source;
use mio::{Interest, Registry, Token};

use crate::target::Address;
use crate::wire::{Progress, Reader};

/// What a buffer holds at first.
const BUFFER_BYTES: usize = 16 << 10;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);

/// A connection.
pub(crate) struct Connection {
    stream: Stream,
    received: Vec<u8>,
    filled: usize,
    /// What the socket did not take at once.
    unsent: Vec<u8>,
    sent: usize,
    reader: Reader,
    /// The request under way.
    pub(crate) request: Option<Request>,
    /// Its entities, or those of the last one.
    pub(crate) entities: Vec<u64>,
    /// When it became free, in nanoseconds.
    pub(crate) free_since: u64,
}

/// A request under way; times are nanoseconds from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// When it was meant to be sent.
    pub(crate) due: u64,
    pub(crate) sent: u64,
    pub(crate) write: bool,
    /// Whether its values are checked.
    pub(crate) sample: bool,
}

enum Stream {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Connection {
    /// Connects to `address`, which blocks, and registers as `token`.
    pub(crate) fn open(
        address: &Address,
        reader: Reader,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = Stream::connect(address)?;
        registry.register(stream.source(), token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            received: vec![0; BUFFER_BYTES],
            filled: 0,
            unsent: Vec::new(),
            sent: 0,
            reader,
            request: None,
            entities: Vec::new(),
            free_since: 0,
        })
    }

    /// Connects anew, dropping what was under way.
    pub(crate) fn reopen(
        &mut self,
        address: &Address,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let _ = registry.deregister(self.stream.source());
        self.stream = Stream::connect(address)?;
        registry.register(self.stream.source(), token, Interest::READABLE | Interest::WRITABLE)?;
        self.request = None;
        self.filled = 0;
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }

    /// Sends `bytes`, to which `replies` are expected.
    pub(crate) fn send(
        &mut self,
        bytes: &[u8],
        replies: usize,
        request: Request,
    ) -> io::Result<()> {
        self.reader.begin(replies);
        self.filled = 0;
        self.request = Some(request);
        self.unsent.clear();
        self.sent = 0;
        let written = match self.stream.write(bytes) {
            Ok(written) => written,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(error),
        };
        if written < bytes.len() {
            self.unsent.extend_from_slice(&bytes[written..]);
            return self.send_rest();
        }
        Ok(())
    }

    /// Sends what the socket did not take before.
    pub(crate) fn send_rest(&mut self) -> io::Result<()> {
        while self.sent < self.unsent.len() {
            match self.stream.write(&self.unsent[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives what has come. Events tell of news only once, so it reads until a read gives less
    /// than it could have, which says that nothing more is there.
    pub(crate) fn receive(&mut self) -> io::Result<Progress> {
        loop {
            let space = self.received.len() - self.filled;
            let read = match self.stream.read(&mut self.received[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if would_block(&error) => return Ok(Progress::Partial),
                Err(error) => return Err(error),
            };
            self.filled += read;
            if self.request.is_none() {
                return Ok(Progress::Broken("bytes nobody asked for"));
            }
            match self.reader.read(&self.received[..self.filled]) {
                Progress::Partial if read < space => return Ok(Progress::Partial),
                Progress::Partial => {
                    if self.filled == self.received.len() {
                        self.received.resize(2 * self.filled, 0);
                    }
                }
                done => return Ok(done),
            }
        }
    }

    /// The bytes of the answer so far.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received[..self.filled]
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = std::net::TcpStream::connect_timeout(address, CONNECT)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Tcp(mio::net::TcpStream::from_std(stream)))
            }
            Address::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Self::Unix(mio::net::UnixStream::from_std(stream)))
            }
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}
