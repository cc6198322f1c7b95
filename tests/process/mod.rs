//! A larder process of its own, and a plain HTTP/1.1 client that hides nothing of the wire.
//!
//! It does not know what is tested.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest time a start or a stop may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time an answer may take before the test gives up.
const ANSWER: Duration = Duration::from_secs(60);

/// A running `larder serve`. Dropping it ends it with SIGKILL, as a crash would.
pub(crate) struct Server {
    child: Child,
    /// The line of the log that said ready.
    pub(crate) ready: Value,
}

impl Server {
    /// Starts a server on the data in `data`, with configuration from the environment, and waits
    /// until it is ready.
    pub(crate) fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .current_dir(data.parent().expect("data directories lie in temporary ones"))
            .env_clear()
            .env("LARDER__LOG__FORMAT", "json")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (lines, said) = mpsc::channel();
        // Reads to the end, so that the server never waits for its log to be read.
        std::thread::spawn(move || {
            log.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)));
        });
        let (started, mut all) = (Instant::now(), String::new());
        loop {
            match said.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
                    if parsed["message"] == "larder ready" {
                        return Self { child, ready: parsed };
                    }
                    all.push_str(&line);
                    all.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => panic!("not ready in {PATIENCE:?}: {all}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended with {:?} instead of starting: {all}", child.wait());
                }
            }
        }
    }

    /// The address of the API.
    pub(crate) fn address(&self) -> SocketAddr {
        let listen = self.ready["listen"].as_str().and_then(|text| text.parse().ok());
        listen.expect("the ready line names the address")
    }

    /// A new connection to the API.
    pub(crate) fn connect(&self) -> Client<TcpStream> {
        let client = Client::connect(self.address());
        client.expect("a ready server accepts connections")
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the child has not been waited for");
    }

    /// Waits until it has stopped.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "did not stop in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
pub(crate) struct Client<S> {
    stream: BufReader<S>,
}

impl Client<TcpStream> {
    /// Connects over TCP.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Self::new(stream))
    }
}

impl<S: Read + Write> Client<S> {
    /// Talks over a stream that is there.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends one request and reads its answer.
    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut request = format!("{method} {target} HTTP/1.1\r\nhost: larder\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        // A server may answer, and close, before it has read everything.
        let sent = self.write(&request);
        let reply = self.read();
        if reply.is_err() {
            sent?;
        }
        reply
    }

    /// Posts JSON.
    pub(crate) fn post(&mut self, target: &str, body: &Value) -> io::Result<Reply> {
        let body = body.to_string();
        self.send("POST", target, &[("content-type", "application/json")], body.as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer; its body has to have a length.
    pub(crate) fn read(&mut self) -> io::Result<Reply> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length = reply.header("content-length").map_or(Ok(0), str::parse);
        reply.body.resize(length.map_err(|_| broken("content-length"))?, 0);
        self.stream.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended")),
        }
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A header by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// The body, which has to be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}
