//! Puts the definitions and data of a scenario into a target, if they are not there yet.
//!
//! It does not know measurements.

use serde_json::{Map, Value as Json, json};

use crate::client::Client;
use crate::data::{self, Kind};
use crate::failure::{Failure, Outcome};
use crate::keys::Chooser;
use crate::report::terminal::{Bar, note};
use crate::scenario::Scenario;
use crate::target::{Protocol, Target};
use crate::wire::check;
use crate::wire::request::{ENTITY, JOIN_KEY, Requests};

/// Bytes of one push, about.
const PUSH_BYTES: usize = 4 << 20;
/// Hashes of Redis written by one pipeline.
const PIPELINE: u64 = 500;
/// Entities looked at to know whether the data is there.
const LOOKS: u64 = 64;

/// Makes sure that `target` holds what `scenario` asks for.
pub(crate) fn setup(target: &Target, scenario: &Scenario) -> Outcome<()> {
    if target.protocol == Protocol::Static {
        return Ok(());
    }
    let mut client = Client::connect(target)?;
    let Some(lacking) = lacks(&mut client, target, scenario)? else { return Ok(()) };
    let view = &scenario.data.view;
    match target.protocol {
        Protocol::Larder => {
            register(&mut client, scenario)?;
            push(&mut client, scenario)?;
        }
        Protocol::Redis => fill_redis(&mut client, scenario)?,
        Protocol::Feast | Protocol::Static => {
            let name = &target.name;
            let what = format!("{name} lacks the data of {view} ({lacking}); see loadtest/peers");
            return Err(Failure::new(what));
        }
    }
    match lacks(&mut client, target, scenario)? {
        None => Ok(()),
        Some(lacking) => Err(Failure::new(format!(
            "{} does not hold the known data of {view} after loading it: {lacking}",
            target.name
        ))),
    }
}

/// What is wrong with the first of some entities, which are the first, the last and some between.
/// Data is loaded in order, so if they are right it is all there.
fn lacks(client: &mut Client, target: &Target, scenario: &Scenario) -> Outcome<Option<String>> {
    let mut whole = scenario.clone();
    whole.request.entities = 1;
    whole.request.writes = 0.0;
    if target.protocol != Protocol::Redis {
        whole.request.features = scenario.data.features.kinds().len();
    }
    let mut read = Requests::new(&whole, target.protocol, &target.address)?.read;
    let rows = scenario.data.rows();
    for look in 0..LOOKS {
        let entity = look * (rows - 1) / (LOOKS - 1);
        let reply = client.exchange(read.fill(&[entity]), 1)?;
        if !(200..300).contains(&reply.status) {
            return Ok(Some(String::from_utf8_lossy(&reply.body).into_owned()));
        }
        if let Err(why) = check::read(&whole, target.protocol, &[entity], &reply.body) {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

fn register(client: &mut Client, scenario: &Scenario) -> Outcome<()> {
    let kinds = scenario.data.features.kinds();
    let features: Map<String, Json> = kinds
        .iter()
        .enumerate()
        .map(|(feature, kind)| (data::feature_name(feature), Json::from(kind.type_name())))
        .collect();
    let view = json!({"entity": ENTITY, "tier": scenario.data.tier, "features": features});
    let definitions = json!({
        "entity": {ENTITY: {"join_keys": [JOIN_KEY]}},
        "view": {scenario.data.view.clone(): view},
    });
    client.post("/api/v1/features/register", definitions.to_string().as_bytes())?;
    Ok(())
}

/// Pushes by column, a version after the other; of one version, the event time is the arrival.
fn push(client: &mut Client, scenario: &Scenario) -> Outcome<()> {
    let kinds = scenario.data.features.kinds();
    let rows = scenario.data.rows();
    let bar = Bar::new(format!("loading {}", scenario.data.view), rows);
    let mut row = Vec::new();
    for (feature, kind) in kinds.iter().enumerate() {
        data::value(0, feature, *kind).write_json(&mut row);
        row.push(b',');
    }
    let step = (PUSH_BYTES / (row.len() + 12)).clamp(1, 50_000) as u64;
    let mut from = 0;
    while from < rows {
        let to = rows.min(from + step);
        client.post("/api/v1/features/push", &columns(scenario, &kinds, from, to))?;
        from = to;
        bar.at(from);
    }
    Ok(())
}

fn columns(scenario: &Scenario, kinds: &[Kind], from: u64, to: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(2 * PUSH_BYTES);
    body.extend_from_slice(format!("{{\"view\":\"{}\"", scenario.data.view).as_bytes());
    body.extend_from_slice(format!(",\"columns\":{{\"{JOIN_KEY}\":[").as_bytes());
    let versioned = scenario.data.versioned();
    for row in from..to {
        let comma = if row == from { "" } else { "," };
        let key = data::key(versioned.map_or(row, |entities| row % entities));
        body.extend_from_slice(format!("{comma}\"{key}\"").as_bytes());
    }
    if let Some(entities) = versioned {
        body.extend_from_slice(b"],\"event_timestamp\":[");
        for row in from..to {
            let comma = if row == from { "" } else { "," };
            let time = data::event_micros(row / entities);
            body.extend_from_slice(format!("{comma}{time}").as_bytes());
        }
    }
    for (feature, kind) in kinds.iter().enumerate() {
        body.extend_from_slice(format!("],\"{}\":[", data::feature_name(feature)).as_bytes());
        for entity in from..to {
            if entity > from {
                body.push(b',');
            }
            data::value(entity, feature, *kind).write_json(&mut body);
        }
    }
    body.extend_from_slice(b"]}}");
    body
}

/// Writes hashes with the requests that a scenario with writes would send.
fn fill_redis(client: &mut Client, scenario: &Scenario) -> Outcome<()> {
    let view = &scenario.data.view;
    let kinds = scenario.data.features.kinds();
    if kinds.iter().any(|kind| *kind != Kind::Int64) {
        return Err(Failure::new(format!("{view}: only int64 features are loaded into Redis")));
    }
    let bar = Bar::new(format!("loading {view} into Redis"), scenario.data.entities);
    let mut from = 0;
    while from < scenario.data.entities {
        let to = scenario.data.entities.min(from + PIPELINE);
        let mut pipeline = Vec::new();
        for entity in from..to {
            hash(view, entity, kinds.len(), &mut pipeline);
        }
        let reply = client.exchange(&pipeline, (to - from) as usize)?;
        if !(200..300).contains(&reply.status) {
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            return Err(Failure::new(format!("Redis refuses data: {said}")));
        }
        from = to;
        bar.at(from);
    }
    Ok(())
}

fn hash(view: &str, entity: u64, features: usize, out: &mut Vec<u8>) {
    let mut words = vec!["HSET".to_owned(), format!("{view}:{}", data::key(entity))];
    for feature in 0..features {
        words.push(data::feature_name(feature));
        words.push(data::int64(entity, feature).to_string());
    }
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Asks once what `scenario` asks, for its answer to be looked at.
pub(crate) fn one_answer(target: &Target, scenario: &Scenario) -> Outcome<crate::client::Reply> {
    let mut client = Client::connect(target)?;
    let mut requests = Requests::new(scenario, target.protocol, &target.address)?;
    let mut chooser = Chooser::new(&scenario.keys, scenario.data.rows(), 1);
    let entities: Vec<u64> = (0..scenario.request.entities).map(|_| chooser.entity()).collect();
    let reply = client.exchange(requests.read.fill(&entities), requests.replies)?;
    if (200..300).contains(&reply.status) {
        return Ok(reply);
    }
    note(String::from_utf8_lossy(&reply.body));
    Err(Failure::new(format!("{} answered {}", target.name, reply.status)))
}
