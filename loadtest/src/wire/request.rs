//! The requests of a scenario, as each protocol has them.
//!
//! It does not know answers.

use crate::data::{self, Kind};
use crate::failure::{Failure, Outcome};
use crate::scenario::Scenario;
use crate::target::{Address, Protocol};
use crate::template::Template;
use crate::wire::{Reader, http, resp};

/// The type of entity all data belongs to, and its join key.
pub(crate) const ENTITY: &str = "loadtest";
/// The join key of [`ENTITY`].
pub(crate) const JOIN_KEY: &str = "id";

/// The requests of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    pub(crate) read: Template,
    pub(crate) write: Option<Template>,
    /// Finds where their answers end.
    pub(crate) reader: Reader,
    /// Replies of Redis to one read.
    pub(crate) replies: usize,
}

impl Requests {
    /// The requests of `scenario` in `protocol`.
    pub(crate) fn new(scenario: &Scenario, protocol: Protocol, address: &Address) -> Outcome<Self> {
        let host = address.host();
        let writes = scenario.request.writes > 0.0;
        let versioned = scenario.data.versioned().is_some();
        if versioned && matches!(protocol, Protocol::Redis | Protocol::Feast) {
            return Err(Failure::new("only Larder is asked as of an instant"));
        }
        let (read, write, reader) = match protocol {
            Protocol::Larder | Protocol::Static => (
                larder_read(scenario, &host),
                writes.then(|| larder_write(scenario, &host)),
                Reader::Http(http::Reader::default()),
            ),
            Protocol::Redis => {
                if scenario.asked().iter().any(|kind| *kind != Kind::Int64) {
                    return Err(Failure::new("only int64 features are compared with Redis"));
                }
                let reader = Reader::Resp(resp::Reader::default());
                (redis_read(scenario), writes.then(|| redis_write(scenario)), reader)
            }
            Protocol::Feast if writes => {
                return Err(Failure::new("writes to Feast are not compared"));
            }
            Protocol::Feast => {
                (feast_read(scenario, &host), None, Reader::Http(http::Reader::default()))
            }
        };
        let replies = if protocol == Protocol::Redis { scenario.request.entities } else { 1 };
        Ok(Self { read, write, reader, replies })
    }
}

/// The features a scenario asks for, as Larder and Feast name them.
pub(crate) fn references(scenario: &Scenario) -> Vec<String> {
    let view = &scenario.data.view;
    let of = |feature| format!("{view}:{}", data::feature_name(feature));
    (0..scenario.request.features).map(of).collect()
}

fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(",")
}

fn post(path: &str, host: &str, body: Template) -> Template {
    let length = body.len();
    body.behind(&format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    ))
}

fn larder_read(scenario: &Scenario, host: &str) -> Template {
    let entities = scenario.request.entities;
    let mut body = Template::default();
    body.fixed(&format!("{{\"entity_type\":\"{ENTITY}\","));
    if entities == 1 {
        body.fixed("\"entity_id\":\"");
        body.key(0);
        body.fixed("\"");
        if let Some(entities) = scenario.data.versioned() {
            body.fixed(",\"time_unit\":\"us\",\"as_of\":");
            body.instant(0, entities);
        }
    } else {
        keys(&mut body, "\"entity_ids\":[", entities);
    }
    body.fixed(&format!(",\"feature_names\":[{}]}}", quoted(&references(scenario))));
    let route = if entities == 1 { "online" } else { "batch" };
    post(&format!("/api/v1/features/{route}"), host, body)
}

fn keys(body: &mut Template, before: &str, entities: usize) {
    body.fixed(before);
    for entity in 0..entities {
        body.fixed(if entity == 0 { "\"" } else { ",\"" });
        body.key(entity);
        body.fixed("\"");
    }
    body.fixed("]");
}

fn larder_write(scenario: &Scenario, host: &str) -> Template {
    let mut body = Template::default();
    let view = &scenario.data.view;
    body.fixed(&format!("{{\"rows\":[{{\"view\":\"{view}\",\"entity_id\":\""));
    body.key(0);
    body.fixed("\",\"features\":{");
    for (feature, kind) in scenario.data.features.kinds().into_iter().enumerate() {
        let comma = if feature == 0 { "" } else { "," };
        body.fixed(&format!("{comma}\"{}\":", data::feature_name(feature)));
        body.value(0, feature, kind);
    }
    body.fixed("}}]}");
    post("/api/v1/features/push", host, body)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The key of a hash: the view and the entity, as several views may share a Redis.
fn redis_key(template: &mut Template, scenario: &Scenario, entity: usize) {
    let view = &scenario.data.view;
    let length = view.len() + 1 + data::key(0).len();
    template.fixed(&format!("${length}\r\n{view}:"));
    template.key(entity);
    template.fixed("\r\n");
}

fn redis_read(scenario: &Scenario) -> Template {
    let names: Vec<String> = (0..scenario.request.features).map(data::feature_name).collect();
    let fields: String = names.iter().map(|name| bulk(name)).collect();
    let mut template = Template::default();
    for entity in 0..scenario.request.entities {
        template.fixed(&format!("*{}\r\n$5\r\nHMGET\r\n", names.len() + 2));
        redis_key(&mut template, scenario, entity);
        template.fixed(&fields);
    }
    template
}

/// Values are padded with spaces, which the checker takes off: lengths stand first in RESP.
fn redis_write(scenario: &Scenario) -> Template {
    let kinds = scenario.data.features.kinds();
    let mut template = Template::default();
    template.fixed(&format!("*{}\r\n$4\r\nHSET\r\n", 2 + 2 * kinds.len()));
    redis_key(&mut template, scenario, 0);
    for (feature, kind) in kinds.into_iter().enumerate() {
        template.fixed(&bulk(&data::feature_name(feature)));
        template.fixed("$6\r\n");
        template.value(0, feature, kind);
        template.fixed("\r\n");
    }
    template
}

fn feast_read(scenario: &Scenario, host: &str) -> Template {
    let mut body = Template::default();
    body.fixed(&format!("{{\"features\":[{}],", quoted(&references(scenario))));
    keys(&mut body, &format!("\"entities\":{{\"{JOIN_KEY}\":["), scenario.request.entities);
    body.fixed("}}");
    post("/get-online-features", host, body)
}
