//! Asks a running server over HTTP, and turns what it refuses into words.
//!
//! It does not know what the commands do with the answers.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, Body, SendBody, Timeout};

use crate::cli::failure::Failure;
use crate::cli::target::{Features, LoadAsk, LoadReport, TrainAsk, encode};
use crate::cli::terminal::Progress;
use crate::config::Config;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, Stream};
use crate::engine::define::{Data, DefineOptions, Defined};
use crate::engine::label_columns::KeyColumns;
use crate::engine::load::EventTimes;
use crate::engine::training::Names;
use crate::ids::Sequence;
use crate::registry::changes::Absent;
use crate::registry::definitions::Definitions;
use crate::time::TimeUnit;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may say nothing, or take nothing, in the middle of a request: longer than its
/// own deadlines.
const IDLE: Duration = Duration::from_secs(300);
/// How long it may say nothing while it works on a file that it was sent.
const WORK: Duration = Duration::from_secs(6 * 3600);
/// How long a server may take to answer a probe.
const PROBE: Duration = Duration::from_secs(5);
/// The media type of Parquet.
const PARQUET: &str = "application/vnd.apache.parquet";
/// Longest answer that is read into memory.
const ANSWER_BYTES: u64 = 1 << 30;

/// A running server.
pub(super) struct Remote {
    agent: Agent,
    base: String,
}

/// What the register endpoint answers.
#[derive(Deserialize)]
struct Registered {
    changes: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
    sequence: u64,
    #[serde(default)]
    erasures: Vec<String>,
}

impl Remote {
    /// The server at `url`, or where `config` has it listen.
    pub(super) fn new(url: Option<&str>, config: &Config) -> Result<Self, Failure> {
        let base = match url {
            Some(url) => base_of(url)?,
            None => format!("http://{}", reachable(config.server.listen)?),
        };
        Ok(Self::patient(base, IDLE))
    }

    fn patient(base: String, idle: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(idle))
            .timeout_per_write(Some(idle));
        Self { agent: agent.build().into(), base }
    }

    /// What `/health` says: whether it is well, and its words.
    pub(super) fn health(&self) -> Result<(bool, String), Failure> {
        let request = self.agent.get(format!("{}/health", self.base));
        let response = request.config().timeout_global(Some(PROBE)).build().call();
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let words = response.body_mut().read_to_string();
        let words = words.map_err(|error| self.unreachable(&error))?;
        Ok((response.status().is_success(), words))
    }

    /// The answer to a POST of this path without a body.
    pub(super) fn post(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.send(Request::post(format!("{}{path}", self.base)), SendBody::none())
    }

    /// The answer to a DELETE of this path.
    pub(super) fn delete(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.send(Request::delete(format!("{}{path}", self.base)), ())
    }

    /// The answer to a GET of this path and query.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.send(Request::get(format!("{}{path}", self.base)), ())
    }

    /// See [`crate::cli::target::Target::define`]. Definitions of several projects are several
    /// requests, one after another.
    pub(super) fn define(
        &self,
        definitions: &Definitions,
        options: DefineOptions,
    ) -> Result<Defined, Failure> {
        let mut all = Defined {
            changes: Vec::new(),
            warnings: Vec::new(),
            sequence: Sequence::ZERO,
            erasures: Vec::new(),
        };
        let mut expected = options.if_match;
        for (project, tree) in definitions.to_json() {
            let url = format!(
                "{}/api/v1/features/register?dry_run={}&prune={}{}&project={}",
                self.base,
                options.dry_run,
                options.absent == Absent::Drop,
                if options.data == Data::Drop { "&data=drop" } else { "" },
                encode(project),
            );
            let mut request = Request::post(url).header("content-type", "application/json");
            if let Some(sequence) = expected {
                request = request.header("if-match", sequence.to_string());
            }
            let answer = self.send(request, tree.to_string())?;
            let registered: Registered = self.parse(&answer)?;
            all.changes.extend(registered.changes);
            all.warnings.extend(registered.warnings);
            all.sequence = Sequence(registered.sequence);
            let erasures = registered.erasures.iter().filter_map(|erasure| erasure.parse().ok());
            all.erasures.extend(erasures.map(Sequence));
            // Each project's change moves the sequence that the next one has to name.
            expected = expected.map(|_| all.sequence);
        }
        Ok(all)
    }

    /// See [`crate::cli::target::Target::load`].
    pub(super) fn load(&self, ask: &LoadAsk, progress: Progress) -> Result<LoadReport, Failure> {
        let file = RealDisk.open_read(&ask.file).map_err(Failure::wrong_use)?;
        let total = file.length().map_err(Failure::wrong_use)?;
        let progress = progress.counting(" bytes sent");
        let upload = Upload { file: Stream::new(file, 0), total, progress };
        let request = Request::post(format!("{}{}", self.base, load_path(ask)))
            .header("content-type", PARQUET)
            .header("content-length", total);
        let response = self.send_file(request, upload)?;
        self.parse(&self.read(response)?)
    }

    /// Makes a training set, and writes it to `out`.
    pub(super) fn train(
        &self,
        ask: &TrainAsk,
        mut out: Stream,
        progress: Progress,
    ) -> Result<(), Failure> {
        let file = RealDisk.open_read(&ask.labels).map_err(Failure::wrong_use)?;
        let total = file.length().map_err(Failure::wrong_use)?;
        let progress = progress.counting(" bytes sent");
        let upload = Upload { file: Stream::new(file, 0), total, progress };
        let request = Request::post(format!("{}{}", self.base, train_path(ask)))
            .header("content-type", PARQUET)
            .header("accept", PARQUET)
            .header("content-length", total);
        let response = self.send_file(request, upload)?;
        if !response.status().is_success() {
            return self.read(response).map(drop);
        }
        let copied = std::io::copy(&mut response.into_body().into_reader(), &mut out);
        copied.map(drop).map_err(|error| {
            Failure::failed(format_args!("the answer of {} broke off: {error}", self.base))
        })
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        body: impl AsSendBody,
    ) -> Result<Vec<u8>, Failure> {
        let request = request.body(body).map_err(Failure::wrong_use)?;
        let response = self.agent.run(request);
        self.read(response.map_err(|error| self.unreachable(&error))?)
    }

    /// Sends a file that the server takes its time over.
    fn send_file(
        &self,
        request: ureq::http::request::Builder,
        upload: Upload,
    ) -> Result<Response<Body>, Failure> {
        let body = SendBody::from_owned_reader(upload);
        let request = request.body(body).map_err(Failure::wrong_use)?;
        let request = self.agent.configure_request(request).timeout_per_read(Some(WORK)).build();
        self.agent.run(request).map_err(|error| self.unreachable(&error))
    }

    fn read(&self, mut response: Response<Body>) -> Result<Vec<u8>, Failure> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(body) } else { Err(Failure::of_answer(&body)) }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(answer).map_err(|error| {
            Failure::failed(format_args!("{} answered what cannot be read: {error}", self.base))
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        if matches!(error, ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite)) {
            let message = format_args!("the server at {} does not go on: {error}", self.base);
            return Failure::failed(message);
        }
        Failure::Failed(vec![
            format!("no server answers at {}: {error}", self.base),
            "start one with `larder serve`, name another with --server, or work on a data \
             directory itself with --data"
                .to_owned(),
        ])
    }
}

fn load_path(ask: &LoadAsk) -> String {
    let mut path = format!("/api/v1/load?view={}", encode(&ask.view));
    let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", encode(value)));
    match &ask.options.event_time {
        EventTimes::Column(None) => {}
        EventTimes::Column(Some(column)) => add("timestamp", column),
        EventTimes::At(time) => add("at", &time.to_string()),
    }
    if let Some(column) = &ask.options.arrival {
        add("arrival", column);
    }
    if let Some(unit) = ask.options.time_unit {
        add("time_unit", unit_name(unit));
    }
    if ask.options.refuse_nan {
        add("nan", "refuse");
    }
    if let Some(project) = &ask.project {
        add("project", project);
    }
    path
}

fn train_path(ask: &TrainAsk) -> String {
    let (what, asked) = match &ask.features {
        Features::Service(service) => ("service", service.clone()),
        Features::References(references) => ("feature_names", references.join(",")),
    };
    let mut path = format!("/api/v1/features/historical?{what}={}", encode(&asked));
    let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", encode(value)));
    let names = Names::ALL.iter().find(|(_, names)| *names == ask.names);
    names.into_iter().for_each(|(name, _)| add("names", name));
    if let Some(column) = &ask.options.timestamp {
        add("timestamp", column);
    }
    if let Some(unit) = ask.options.time_unit {
        add("time_unit", unit_name(unit));
    }
    if !ask.options.keys.is_empty() {
        let said = |keys: &KeyColumns| format!("{}={}", keys.role, keys.columns.join(","));
        add("entity_map", &ask.options.keys.iter().map(said).collect::<Vec<_>>().join(";"));
    }
    if ask.known_at_label_time {
        add("known_at_label_time", "true");
    }
    if ask.allow_truncated {
        add("allow_truncated", "true");
    }
    if let Some(project) = &ask.project {
        add("project", project);
    }
    path
}

const fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

/// The URL without a slash at its end; `http://` may be left out.
fn base_of(url: &str) -> Result<String, Failure> {
    let bare = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    if bare.is_empty() || bare.contains("://") {
        let expected = "expected one such as http://127.0.0.1:6566";
        return Err(Failure::wrong_use(format_args!("--server is \"{url}\", {expected}")));
    }
    Ok(format!("http://{bare}"))
}

/// Where a server configured to listen on `listen` is reached from the same host.
fn reachable(listen: SocketAddr) -> Result<SocketAddr, Failure> {
    if listen.port() == 0 {
        let message = "server.listen has port 0; name the server with --server";
        return Err(Failure::wrong_use(message));
    }
    Ok(from_this_host(listen))
}

/// The address by which this host reaches a listener on `listen`.
pub(super) fn from_this_host(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A file on its way to the server.
struct Upload {
    file: Stream,
    total: u64,
    progress: Progress,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.progress.set(self.file.offset(), self.total);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_does_not_go_on_is_given_up() {
        // It takes the request, and that is all; or it hangs in the middle of its answer.
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let taken = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                stream
            });
            let remote = Remote::patient(base, Duration::from_millis(50));
            let failure = remote.get("/ready").unwrap_err();
            let Failure::Failed(lines) = failure else { panic!("{failure:?}") };
            assert!(lines[0].contains("does not go on: timeout"), "{lines:?}");
            drop(taken.join().unwrap());
        }
    }

    #[test]
    fn servers_are_found_from_what_is_typed() {
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(base_of(url).ok().as_deref(), expected, "{url}");
        };
        check("http://127.0.0.1:6566", Some("http://127.0.0.1:6566"));
        check("http://host:1/", Some("http://host:1"));
        check("host:1", Some("http://host:1"));
        check("https://host:1", None);
        check("", None);
        let check = |listen: &str, expected: Option<&str>| {
            let found = reachable(listen.parse().unwrap()).ok().map(|found| found.to_string());
            assert_eq!(found.as_deref(), expected, "{listen}");
        };
        check("127.0.0.1:6566", Some("127.0.0.1:6566"));
        check("0.0.0.0:80", Some("127.0.0.1:80"));
        check("[::]:80", Some("[::1]:80"));
        check("127.0.0.1:0", None);
    }
}
