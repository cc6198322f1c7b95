//! Kills the server at random moments under load, starts it again, and holds every answer against a
//! record kept outside of it: nothing acknowledged is lost, nothing is there that was not sent,
//! no batch is there by half, and every start succeeds.
//!
//! `LARDER_CRASH_CYCLES=1000 cargo test --test crash` runs more than the 50 cycles of CI;
//! `LARDER_CRASH_SEED` repeats the random moments of a run, though not those of the disk.

mod process;

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process::{Client, Reply, Server};
use serde_json::{Value, json};

/// As small and as often as the configuration allows, so that the cycles cross everything.
const SETTINGS: &[(&str, &str)] = &[
    ("LARDER__STORAGE__SEGMENT_SIZE", "1MiB"),
    ("LARDER__STORAGE__CHECKPOINT_INTERVAL", "100ms"),
    ("LARDER__STORAGE__OVERLAY_SIZE", "1MiB"),
    ("LARDER__STORAGE__CACHE_SIZE", "64KiB"),
    ("LARDER__LOG__LEVEL", "info"),
];
const PUSHERS: usize = 4;
const GROUPS_OF_PUSHER: usize = 8;
const GROUPS: usize = PUSHERS * GROUPS_OF_PUSHER;
/// The late rows of a batch date from 2020.
const LONG_AGO: i64 = 1_577_836_800_000_000;
/// Cycles until new data is begun: a start, and a check, take the longer the more history there is.
const CYCLES_OF_DATA: usize = 50;
/// Instants asked of history in one request.
const INSTANTS: usize = 5_000;

/// The splitmix64 generator.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let given = std::env::var("LARDER_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| now().cast_unsigned());
        println!("LARDER_CRASH_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }
}

/// Microseconds since the epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_micros()).expect("it is before the year 200,000")
}

/// What the features of a group of three entities hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Content {
    batch: Option<i64>,
    partial: Option<i64>,
    late: Option<i64>,
    arrival: Option<i64>,
}

/// A batch as it was sent: rows of three entities in two views, all with the batch's number.
struct Sent {
    batch: i64,
    group: usize,
    /// Event time of its rows.
    at: i64,
    body: Value,
    /// Its idempotency key.
    key: Option<String>,
    /// What the group holds once it is written.
    after: Content,
}

fn entity(group: usize, member: usize) -> String {
    format!("g{group}-{member}")
}

impl Sent {
    fn new(batch: i64, group: usize, before: Content, random: &mut Random) -> Self {
        let at = now();
        let mut after = Content { batch: Some(batch), ..before };
        let pad = "p".repeat(usize::try_from(random.within(0..2_000)).expect("small"));
        let mut first = json!({ "batch": batch });
        match random.within(0..3) {
            0 => {}
            1 => {
                first["partial"] = json!(batch);
                after.partial = Some(batch);
            }
            _ => {
                first["partial"] = Value::Null;
                after.partial = None;
            }
        }
        let row = |view: &str, member, features: &Value| {
            let id = entity(group, member);
            json!({"view": view, "entity_id": id, "event_timestamp": at, "features": features})
        };
        let only = json!({ "batch": batch });
        let mut rows = vec![row("right", 0, &first), row("right", 2, &only)];
        first["pad"] = json!(pad);
        rows.extend([row("left", 0, &first), row("left", 1, &only), row("left", 2, &only)]);
        if random.within(0..3) == 0 {
            let mut late = row("left", 0, &json!({ "late": batch }));
            late["event_timestamp"] = json!(LONG_AGO + batch);
            after.late = Some(batch);
            rows.push(late);
        }
        if random.within(0..4) == 0 {
            let mut undated = row("left", 1, &json!({ "arrival": batch }));
            undated.as_object_mut().expect("a row").remove("event_timestamp");
            after.arrival = Some(batch);
            rows.push(undated);
        }
        let key = (random.within(0..3) == 0).then(|| format!("batch-{batch}"));
        Self { batch, group, at, body: json!({ "rows": rows }), key, after }
    }

    fn send(&self, client: &mut Client<TcpStream>) -> io::Result<Reply> {
        let body = self.body.to_string();
        let json = ("content-type", "application/json");
        let headers = match &self.key {
            Some(key) => vec![json, ("idempotency-key", key.as_str())],
            None => vec![json],
        };
        client.send("POST", "/api/v1/features/push", &headers, body.as_bytes())
    }
}

/// What one pusher did until its connection broke.
struct Pushed {
    acknowledged: Vec<(Sent, Value)>,
    unanswered: Option<Sent>,
}

/// Pushes batches to the pusher's own groups until the connection breaks.
fn push(
    address: SocketAddr,
    pusher: usize,
    contents: &mut [Content],
    (next_batch, mut random): (&AtomicI64, Random),
) -> Pushed {
    let mut pushed = Pushed { acknowledged: Vec::new(), unanswered: None };
    let Ok(mut client) = Client::connect(address) else { return pushed };
    loop {
        let own = usize::try_from(random.within(0..GROUPS_OF_PUSHER as u64)).expect("small");
        let batch = next_batch.fetch_add(1, Ordering::Relaxed);
        let group = pusher * GROUPS_OF_PUSHER + own;
        let sent = Sent::new(batch, group, contents[own], &mut random);
        let Ok(reply) = sent.send(&mut client) else {
            pushed.unanswered = Some(sent);
            return pushed;
        };
        assert_eq!(reply.status, 200, "{reply}");
        contents[own] = sent.after;
        pushed.acknowledged.push((sent, reply.json()));
    }
}

/// Defines views, and writes a row into each, until the connection breaks. Returns the views that
/// were acknowledged, each with whether its row was.
fn define(address: SocketAddr, cycle: usize) -> Vec<(String, bool)> {
    let mut defined = Vec::new();
    let Ok(mut client) = Client::connect(address) else { return defined };
    loop {
        let name = format!("extra_{cycle}_{}", defined.len());
        let view = json!({"entity": "user", "features": {"x": "int64"}});
        let body = json!({"view": {name.clone(): view}});
        let Ok(reply) = client.post("/api/v1/features/register", &body) else { return defined };
        assert_eq!(reply.status, 200, "{reply}");
        let row = json!({"view": name, "entity_id": "x", "features": {"x": cycle}});
        let reply = client.post("/api/v1/features/push", &json!({ "rows": [row] }));
        let written = reply.as_ref().is_ok_and(|reply| reply.status == 200);
        defined.push((name, written));
        if reply.is_err() {
            return defined;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Everything that was acknowledged, kept where no crash of the server reaches it.
struct Record {
    contents: Vec<Content>,
    next_batch: AtomicI64,
    /// The written batches since the first cycle: number, group, event time.
    written: Vec<(i64, usize, i64)>,
    /// Last sequence and rows of every acknowledged write.
    sequences: Vec<(u64, u64)>,
    views: BTreeSet<String>,
    cycle: usize,
    unanswered_written: usize,
    repeats: usize,
}

impl Record {
    fn new() -> Self {
        Self {
            contents: vec![Content::default(); GROUPS],
            next_batch: AtomicI64::new(1),
            written: Vec::new(),
            sequences: Vec::new(),
            views: BTreeSet::from(["left".to_owned(), "right".to_owned()]),
            cycle: 0,
            unanswered_written: 0,
            repeats: 0,
        }
    }

    /// Loads the server until `end` ends it.
    fn load(
        &mut self,
        address: SocketAddr,
        random: &mut Random,
        end: impl FnOnce(),
    ) -> (Vec<Pushed>, Vec<(String, bool)>) {
        let (next_batch, cycle) = (&self.next_batch, self.cycle);
        self.cycle += 1;
        std::thread::scope(|scope| {
            let pushers = self.contents.chunks_mut(GROUPS_OF_PUSHER).enumerate();
            let pushers: Vec<_> = pushers
                .map(|(pusher, contents)| {
                    let random = Random(random.next());
                    scope.spawn(move || push(address, pusher, contents, (next_batch, random)))
                })
                .collect();
            let definer = scope.spawn(move || define(address, cycle));
            end();
            let pushed = pushers.into_iter().map(|pusher| pusher.join().expect("a pusher ends"));
            (pushed.collect(), definer.join().expect("the definer ends"))
        })
    }

    /// Holds what the server has after a start against what was acknowledged.
    fn check(&mut self, client: &mut Client<TcpStream>, pushed: Vec<Pushed>, drained: bool) {
        let found = contents(client);
        for Pushed { acknowledged, unanswered } in pushed {
            let from = self.written.len();
            for (sent, answer) in &acknowledged {
                self.written.push((sent.batch, sent.group, sent.at));
                self.take_answer(answer);
            }
            if let Some((sent, answer)) = acknowledged.iter().rfind(|(sent, _)| sent.key.is_some())
            {
                // The repeat of a group's older batch would be seen as a phantom if it wrote.
                self.repeat(client, sent, answer);
            }
            if let Some(sent) = unanswered {
                self.settle(client, &sent, (found[sent.group], drained));
            }
            in_history(client, &self.written[from..]);
        }
        assert_eq!(contents(client), self.contents, "lost, or never sent");
    }

    /// Finds out what became of a batch whose answer did not come.
    fn settle(
        &mut self,
        client: &mut Client<TcpStream>,
        sent: &Sent,
        (found, drained): (Content, bool),
    ) {
        let was_written = found.batch == Some(sent.batch);
        assert!(!(was_written && drained), "batch {} was written, not answered", sent.batch);
        self.unanswered_written += usize::from(was_written);
        if sent.key.is_some() {
            let before = sequence(client);
            let reply = sent.send(client).expect("a ready server answers");
            assert_eq!(reply.status, 200, "{reply}");
            let answer = reply.json();
            self.take_answer(&answer);
            let rows = if was_written { 0 } else { answer["accepted"].as_u64().expect("a count") };
            assert_eq!(sequence(client), before + rows, "{} was {was_written}", sent.batch);
        } else if !was_written {
            // Its group then holds what it held before; the comparison of contents says so.
            return;
        }
        self.contents[sent.group] = sent.after;
        self.written.push((sent.batch, sent.group, sent.at));
    }

    /// Holds that a repeated idempotency key answers as before and writes nothing.
    fn repeat(&mut self, client: &mut Client<TcpStream>, sent: &Sent, answer: &Value) {
        let before = sequence(client);
        let again = sent.send(client).expect("a ready server answers");
        assert_eq!((again.status, &again.json()), (200, answer), "batch {}", sent.batch);
        assert_eq!(sequence(client), before, "the repeat of {} wrote", sent.batch);
        self.repeats += 1;
    }

    fn take_answer(&mut self, answer: &Value) {
        let number = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("{answer}"));
        self.sequences.push((number("sequence"), number("accepted")));
    }

    /// Holds that every acknowledged definition stands, with its row.
    fn check_definitions(&mut self, client: &mut Client<TcpStream>, defined: &[(String, bool)]) {
        self.views.extend(defined.iter().map(|(name, _)| name.clone()));
        let listed = client.send("GET", "/api/v1/views", &[], b"").expect("a listing").json();
        let listed = listed["views"].as_array().expect("a list of views").iter();
        let listed: BTreeSet<String> =
            listed.map(|view| view["name"].as_str().expect("a name").to_owned()).collect();
        let lost: Vec<_> = self.views.difference(&listed).collect();
        assert!(lost.is_empty(), "lost {lost:?}");
        let written = defined.iter().filter(|(_, written)| *written);
        let names: Vec<String> = written.map(|(name, _)| format!("{name}:x")).collect();
        if names.is_empty() {
            return;
        }
        let body = json!({"entity_type": "user", "entity_id": "x", "feature_names": names});
        let found = client.post("/api/v1/features/online", &body).expect("an answer").json();
        let expected = json!(self.cycle - 1);
        assert!(names.iter().all(|name| found["features"][name] == expected), "lost: {found}");
    }

    /// Holds that no two writes have a sequence in common.
    fn check_sequences(&mut self) {
        self.sequences.sort_unstable();
        // A repeat has the sequence of the first.
        self.sequences.dedup();
        for pair in self.sequences.windows(2) {
            let ((before, _), (last, rows)) = (pair[0], pair[1]);
            assert!(last - rows >= before, "sequences up to {before} and {rows} up to {last}");
        }
    }
}

fn ready(client: &mut Client<TcpStream>) -> Value {
    client.send("GET", "/ready", &[], b"").expect("a ready server answers").json()
}

fn sequence(client: &mut Client<TcpStream>) -> u64 {
    ready(client)["sequence"].as_u64().expect("a sequence")
}

/// What is asked of each member of a group, and with it the columns of [`FEATURES`] that history is
/// asked for too: those it does not have to walk back to the beginning for.
const MEMBERS: [&[usize]; 3] = [&[0, 1, 4, 5], &[0, 3], &[0, 4]];
const FEATURES: [&str; 6] =
    ["left:batch", "left:partial", "left:late", "left:arrival", "right:batch", "right:partial"];

/// What each group holds online; history has to say the same as of the same instant.
fn contents(client: &mut Client<TcpStream>) -> Vec<Content> {
    let ask = |client: &mut Client<TcpStream>, body: Value| {
        let reply = client.post("/api/v1/features/batch", &body).expect("an answer");
        assert_eq!(reply.status, 200, "{reply}");
        reply.json()
    };
    let ids = (0..GROUPS).flat_map(|group| (0..3).map(move |member| entity(group, member)));
    let ids: Vec<String> = ids.collect();
    let body = json!({"entity_type": "user", "entity_ids": ids, "feature_names": FEATURES});
    let online = ask(client, body);
    let rows = online["rows"].as_array().expect("rows");
    for (member, columns) in MEMBERS.iter().enumerate() {
        let ids: Vec<String> = (0..GROUPS).map(|group| entity(group, member)).collect();
        let names: Vec<&str> = columns.iter().map(|column| FEATURES[*column]).collect();
        let as_of = ask(
            client,
            json!({
                "entity_type": "user", "entity_ids": ids, "feature_names": names,
                "as_of": online["metadata"]["timestamp"],
            }),
        );
        for group in 0..GROUPS {
            let row = &rows[group * 3 + member];
            let row: Vec<&Value> = columns.iter().map(|column| &row[*column]).collect();
            let entity = entity(group, member);
            assert_eq!(json!(row), as_of["rows"][group], "online and history differ for {entity}");
        }
    }
    rows.chunks(3).map(content).collect()
}

/// The content of a group, which has to be of one batch in all members and views.
fn content(members: &[Value]) -> Content {
    let number = |member: usize, column: usize| members[member][column].as_i64();
    let batch = number(0, 0);
    let all = [number(1, 0), number(2, 0), number(0, 4), number(2, 4)];
    assert!(all.iter().all(|other| *other == batch), "half a batch: {members:?}");
    assert_eq!(number(0, 1), number(0, 5), "half a batch: {members:?}");
    Content { batch, partial: number(0, 1), late: number(0, 2), arrival: number(1, 3) }
}

/// Holds that each batch can be read as of its event time, in both views.
fn in_history(client: &mut Client<TcpStream>, written: &[(i64, usize, i64)]) {
    for written in written.chunks(INSTANTS) {
        let ids = written.iter().map(|(_, group, _)| entity(*group, 0));
        let times = written.iter().map(|(_, _, at)| *at);
        let columns = json!({
            "entity_id": ids.collect::<Vec<_>>(),
            "timestamp": times.collect::<Vec<_>>(),
        });
        let names = ["left:batch", "right:batch"];
        let body = json!({"entity_type": "user", "feature_names": names, "columns": columns});
        let reply = client.post("/api/v1/features/historical", &body).expect("an answer");
        assert_eq!(reply.status, 200, "{reply}");
        let found = reply.json();
        for (row, (batch, group, at)) in written.iter().enumerate() {
            let found = &found["rows"][row];
            assert_eq!(*found, json!([batch, batch]), "group {group} as of {at}");
        }
    }
}

fn begin(data: &Path) -> Server {
    let server = Server::start(data, SETTINGS);
    let left = json!({
        "batch": "int64", "partial": "int64", "late": "int64", "arrival": "int64", "pad": "string"
    });
    let right = json!({"batch": "int64", "partial": "int64"});
    let definitions = json!({
        "entity": {"user": {"join_keys": ["user_id"]}},
        "view": {
            "left": {"entity": "user", "features": left},
            "right": {"entity": "user", "tier": "disk", "features": right},
        },
    });
    let reply = server.connect().post("/api/v1/features/register", &definitions);
    let reply = reply.expect("a ready server answers");
    assert_eq!(reply.status, 200, "{reply}");
    server
}

/// A metric without labels.
fn metric(client: &mut Client<TcpStream>, name: &str) -> f64 {
    let text = client.send("GET", "/metrics", &[], b"").expect("an answer").body;
    let text = String::from_utf8(text).expect("metrics are text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

fn cycles() -> usize {
    let given = std::env::var("LARDER_CRASH_CYCLES").ok();
    given.map_or(50, |cycles| cycles.parse().expect("LARDER_CRASH_CYCLES is a number"))
}

/// Crashes the server over and over; `wipe` deletes what is derived before each start.
fn crash(wipe: bool) {
    let (mut random, mut left) = (Random::seeded(), cycles());
    while left > 0 {
        let cycles = left.min(CYCLES_OF_DATA);
        crash_on_new_data(wipe, cycles, &mut random);
        left -= cycles;
    }
}

fn crash_on_new_data(wipe: bool, cycles: usize, random: &mut Random) {
    let (directory, started) = (tempfile::tempdir().expect("a directory"), Instant::now());
    let data = directory.path().join("data");
    let mut record = Record::new();
    let (mut server, mut from_checkpoints) = (begin(&data), 0.0);
    for _ in 0..cycles {
        let moment = Duration::from_micros(random.within(5_000..300_000));
        let address = server.address();
        let (pushed, defined) = record.load(address, random, move || {
            std::thread::sleep(moment);
            // With SIGKILL.
            drop(server);
        });
        if wipe {
            for derived in ["checkpoint", "disk"] {
                std::fs::remove_dir_all(data.join(derived)).unwrap_or_else(|error| {
                    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{derived}: {error}");
                });
            }
        }
        server = Server::start(&data, SETTINGS);
        let mut client = server.connect();
        record.check(&mut client, pushed, false);
        record.check_definitions(&mut client, &defined);
        from_checkpoints += metric(&mut client, "larder_recovery_checkpoint_rows");
    }
    in_history(&mut server.connect(), &record.written);
    record.check_sequences();
    let segments = std::fs::read_dir(data.join("history")).expect("history").count();
    println!(
        "{} cycles in {:?}: {} batches, {} of them written but not answered, {} repeats, {} views, \
         {from_checkpoints} rows from checkpoints, {segments} files of history",
        cycles,
        started.elapsed(),
        record.written.len(),
        record.unanswered_written,
        record.repeats,
        record.views.len(),
    );
    if cycles == CYCLES_OF_DATA {
        assert!(segments > 2, "the cycles have not crossed a roll of history");
        assert_eq!(from_checkpoints > 0.0, !wipe, "rows from checkpoints");
    }
}

#[test]
fn a_crash_loses_nothing() {
    crash(false);
}

#[test]
fn a_crash_and_the_loss_of_all_that_is_derived_lose_nothing() {
    crash(true);
}

/// Sends a push up to the middle of its body.
fn begin_push(server: &Server, sent: &Sent) -> (Client<TcpStream>, Vec<u8>) {
    let mut client = server.connect();
    let mut body = sent.body.to_string().into_bytes();
    let rest = body.split_off(body.len() / 2);
    let length = body.len() + rest.len();
    let head = format!(
        "POST /api/v1/features/push HTTP/1.1\r\nhost: larder\r\ncontent-length: {length}\r\n\r\n"
    );
    client.write(head.as_bytes()).expect("a ready server reads");
    client.write(&body).expect("a ready server reads");
    (client, rest)
}

#[test]
fn a_drain_answers_what_is_under_way_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let (mut random, mut record) = (Random::seeded(), Record::new());
    let mut server = begin(&data);
    for _ in 0..5 {
        // A group of its own, beyond those of the pushers.
        let batch = record.next_batch.fetch_add(1, Ordering::Relaxed);
        let mut under_way = Sent::new(batch, GROUPS, Content::default(), &mut random);
        under_way.key = None;
        let (mut client, rest) = begin_push(&server, &under_way);
        let moment = Duration::from_micros(random.within(5_000..200_000));
        let (address, ending, mut answer) = (server.address(), &server, Value::Null);
        let (pushed, defined) = record.load(address, &mut random, || {
            std::thread::sleep(moment);
            ending.terminate();
            std::thread::sleep(Duration::from_millis(50));
            client.write(&rest).expect("a draining server still reads");
            let reply = client.read().expect("a draining server answers what is under way");
            assert_eq!(reply.status, 200, "{reply}");
            answer = reply.json();
        });
        record.take_answer(&answer);
        assert_eq!(server.wait().code(), Some(0));
        server = Server::start(&data, SETTINGS);
        let mut client = server.connect();
        in_history(&mut client, &[(under_way.batch, under_way.group, under_way.at)]);
        record.check(&mut client, pushed, true);
        record.check_definitions(&mut client, &defined);
    }
    in_history(&mut server.connect(), &record.written);
    record.check_sequences();
}
