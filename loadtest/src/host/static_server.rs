//! The ceiling: a server on the HTTP stack of Larder that reads the whole request and answers so
//! many bytes that mean nothing.
//!
//! It does not know what is asked. The settings of its connections are those of Larder's
//! `src/http/connection.rs`; what Larder does beyond them is what the ceiling measures.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::failure::{At, Failure, Outcome};
use crate::host::child::{Server, command};
use crate::report::terminal::say;
use crate::target::{Named, Target};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const READY: &str = "listening on ";

/// Starts one as a process of its own that answers `bytes`, on processor `cpu`.
pub(crate) fn start(bytes: usize, cpu: Option<usize>) -> Outcome<(Server, Target)> {
    let program = std::env::current_exe().at("cannot find this program")?;
    start_program(&program, bytes, cpu)
}

fn start_program(program: &Path, bytes: usize, cpu: Option<usize>) -> Outcome<(Server, Target)> {
    let mut command = command(program, cpu);
    command.args(["static", "--listen", "127.0.0.1:0", "--answer-bytes", &bytes.to_string()]);
    let ready = |line: &str| line.strip_prefix(READY).map(str::to_owned);
    let (server, address) = Server::start(command, ready)?;
    match Named::parse(&format!("static://{address}"))? {
        Named::Running(target) => Ok((server, target)),
        Named::Binary(_) => Err(Failure::new("the static server named no address")),
    }
}

/// Serves until the process ends.
pub(crate) fn serve(listen: SocketAddr, answer_bytes: usize) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_io()
        .enable_time()
        .build()
        .at("cannot start the runtime")?;
    // The loop runs on a worker, as Larder's does: the thread of `block_on` is no worker.
    let serving = runtime.spawn(async move {
        let listener = TcpListener::bind(listen).await.at(listen)?;
        say(format!("{READY}{}", listener.local_addr().at(listen)?));
        let answer = Bytes::from(answer(answer_bytes));
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(connection(stream, answer.clone()));
        }
    });
    runtime.block_on(serving).at("the static server died")?
}

async fn connection(stream: TcpStream, answer: Bytes) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(respond(request, answer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .writev(false)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .keep_alive_interval(Duration::from_secs(20));
    // A connection that breaks off is its peer's business.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>, answer: Bytes) -> Response<Full<Bytes>> {
    let read = request.into_body().collect().await.is_ok();
    let mut response = Response::new(Full::new(if read { answer } else { Bytes::new() }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, HeaderValue::from_static("0123456789abcdef"));
    response
}

/// JSON of this length, as near as JSON comes.
fn answer(bytes: usize) -> Vec<u8> {
    let mut text = vec![b'0'; bytes];
    if let [first, .., last] = text.as_mut_slice() {
        (*first, *last) = (b'"', b'"');
    }
    text
}
