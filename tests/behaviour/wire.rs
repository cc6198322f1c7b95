//! What arrives below the level of requests: bodies without end, heads that are no heads, bytes
//! that are no HTTP, and peers that go away.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::json;

use crate::door::{Door, ends, is_problem};
use crate::process::Client;

const PUSH: &str = "/api/v1/features/push";
const LIMIT: (u16, &str) = (413, "LIMIT_EXCEEDED");
const BROKEN: (u16, &str) = (400, "MALFORMED_REQUEST");

#[test]
fn whatever_arrives_the_server_goes_on_answering() {
    let mut door = Door::open(&[]);
    let before = door.sequence();
    large_bodies(&mut door);
    broken_heads(&mut door);
    broken_bodies(&mut door);
    pipelines(&mut door);
    let after = door.sequence();
    door.equal("nothing was written", &json!(after), &json!(before));
    door.finish();
}

/// Sends bytes that never end well on a connection of its own, reading meanwhile.
fn exchange(door: &Door, parts: &[&[u8]]) -> Client<TcpStream> {
    let stream = TcpStream::connect(door.server.address()).expect("it accepts");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a timeout");
    let mut writing = stream.try_clone().expect("a second handle");
    let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
    std::thread::spawn(move || {
        // The server may close before it has read everything.
        let _ = parts.iter().try_for_each(|part| writing.write_all(part));
    });
    Client::new(stream)
}

fn large_bodies(door: &mut Door) {
    let hundred = 100 << 20;
    let head = format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: {hundred}\r\n\r\n");
    let reply = exchange(door, &[head.as_bytes(), &vec![b' '; hundred]]).read();
    let found = reply.map(|reply| is_problem(&reply, LIMIT, "limits.body_bytes is 8388608"));
    door.holds(&format!("100 MiB: {found:?}"), matches!(found, Ok(Ok(()))));

    let waiting = format!(
        "POST {PUSH} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {hundred}\r\n\r\n"
    );
    let reply = exchange(door, &[waiting.as_bytes()]).read();
    let found = reply.map(|reply| is_problem(&reply, LIMIT, "104857600"));
    door.holds(&format!("100 MiB, asking first: {found:?}"), matches!(found, Ok(Ok(()))));

    let head = format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let mut parts = vec![head.as_bytes()];
    parts.extend(std::iter::repeat_n(chunk.as_slice(), 12));
    let reply = exchange(door, &parts).read();
    let found = reply.map(|reply| is_problem(&reply, LIMIT, "more than 8388608"));
    door.holds(&format!("12 MiB in chunks: {found:?}"), matches!(found, Ok(Ok(()))));
}

fn broken_heads(door: &mut Door) {
    let long = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(200));
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(80_000));
    let heads: &[(&str, &[u8])] = &[
        ("a huge header", long.as_bytes()),
        ("many headers", many.as_bytes()),
        ("a huge path", path.as_bytes()),
        ("no HTTP", b"hello there, general\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        ("zeros", &[0; 4096]),
        ("a bare line feed in a header", b"GET /health HTTP/1.1\r\nhost: x\r\na\nb: c\r\n\r\n"),
        ("no version", b"GET /health\r\n\r\n"),
        ("another version", b"GET /health HTTP/9.9\r\n\r\n"),
        ("two lengths", b"POST /api/v1/features/push HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        ("no length", b"POST /api/v1/features/push HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n{}"),
        ("a negative length", b"POST /api/v1/features/push HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}"),
        ("a space before the colon", b"GET /health HTTP/1.1\r\nhost : x\r\n\r\n"),
    ];
    for (what, head) in heads {
        let mut client = exchange(door, &[head]);
        let large = what.contains("huge") || what.contains("many");
        let expected = if large { LIMIT } else { BROKEN };
        let found = client.read().map(|reply| {
            let close = reply.header("connection") == Some("close");
            is_problem(&reply, expected, "the head of the request").map(|()| close)
        });
        door.holds(&format!("{what}: {found:?}"), matches!(found, Ok(Ok(true))));
        door.holds(&format!("{what} ends the connection"), ends(&mut client));
        let health = door.get("/health");
        door.equal(what, &health, &json!({"status": "ok"}));
    }
}

fn broken_bodies(door: &mut Door) {
    let row = r#"{"rows":[{"view":"user_account","entity_id":"x","features":{"level":1}}]}"#;
    let head = |length: usize| {
        format!("POST {PUSH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
    };
    // The peer goes away in the middle of its body.
    for cut in [0, 1, row.len() / 2, row.len() - 1] {
        let mut stream = TcpStream::connect(door.server.address()).expect("it accepts");
        stream.write_all(head(row.len()).as_bytes()).expect("it reads");
        stream.write_all(&row.as_bytes()[..cut]).expect("it reads");
        stream.shutdown(Shutdown::Write).expect("an open stream");
        let mut rest = String::new();
        let _ = stream.read_to_string(&mut rest);
        door.holds(&format!("half a body: {rest}"), !rest.starts_with("HTTP/1.1 200"));
    }
    // A body longer than its length: what is beyond is no request.
    let beyond = format!("{}{row}and more", head(row.len() - 1));
    let mut client = exchange(door, &[beyond.as_bytes()]);
    let reply = client.read();
    let found = reply.map(|reply| is_problem(&reply, BROKEN, "EOF"));
    door.holds(&format!("beyond its length: {found:?}"), matches!(found, Ok(Ok(()))));
    door.holds("beyond its length, it ends", ends(&mut client));
    let chunks = format!(
        "POST {PUSH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{row}\r\n0\r\n\r\n"
    );
    let reply = exchange(door, &[chunks.as_bytes()]).read();
    let found = reply.map(|reply| is_problem(&reply, BROKEN, "the body broke off"));
    door.holds(&format!("chunks that are none: {found:?}"), matches!(found, Ok(Ok(()))));
    // Nobody waits for the answer.
    for _ in 0..20 {
        let mut stream = TcpStream::connect(door.server.address()).expect("it accepts");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("it reads");
    }
}

fn pipelines(door: &mut Door) {
    let get = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut client = exchange(door, &[get.repeat(50).as_bytes()]);
    for index in 0..50 {
        let reply = client.read();
        let answered = reply.is_ok_and(|reply| reply.status == 200);
        door.holds(&format!("request {index} of a pipeline"), answered);
    }
    let garbage = format!("{get}{get}\0\x01garbage\r\n\r\n{get}");
    let mut client = exchange(door, &[garbage.as_bytes()]);
    for _ in 0..2 {
        let answered = client.read().is_ok_and(|reply| reply.status == 200);
        door.holds("what stands before the garbage", answered);
    }
    let found = client.read().map(|reply| is_problem(&reply, BROKEN, "the head of the request"));
    door.holds(&format!("the garbage: {found:?}"), matches!(found, Ok(Ok(()))));
    door.holds("garbage ends a pipeline", ends(&mut client));
}
