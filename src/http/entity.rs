//! `GET /api/v1/features/{entity_type}/{entity_id}`: everything known of one entity, by view.
//!
//! It does not know rows or stores.

use serde::Deserialize;

use crate::engine::error::Problem;
use crate::engine::lookup::{Answer, Batch};
use crate::http::call::{Answered, Call, Format, name, respond};
use crate::http::entity_key;
use crate::http::lookup::{self, When};
use crate::http::lookup_answer::{Metadata, Tally};
use crate::metrics::Code;
use crate::recency::Status;
use crate::registry::Registry;
use crate::registry::model::{EntityType, View};
use crate::registry::plan::{Ask, Plan, What};
use crate::registry::resolve::{Purpose, ResolveError};
use crate::time::EventTime;
use crate::value::json;
use crate::value::key;

/// The query of the route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntityQuery {
    service: Option<String>,
    views: Option<String>,
    #[serde(rename = "project")]
    _project: Option<String>,
}

/// Answers the route.
#[utoipa::path(
    get, path = "/api/v1/features/{entity_type}/{entity_id}", tag = "lookups",
    params(("entity_type" = String, Path, description = "Its type"),
        ("entity_id" = String, Path, description = "Its key, parts joined by commas"),
        ("service" = Option<String>, Query, description = "Only what this service reads"),
        ("views" = Option<String>, Query, description = "Only these views, separated by commas")),
    responses(
        (status = 200, description = "By view", body = Object),
    )
)]
pub(super) async fn handle(call: Call) -> Answered {
    let deadline = call.deadline()?;
    let query: EntityQuery = call.query()?;
    let engine = call.engine()?;
    let registry = engine.registry();
    let project = call.project(&registry)?;
    let entity_type = name(call.segment(3)?)?;
    let entity = registry.entity_named(project, &entity_type)?;
    let mut key = Vec::new();
    entity_key::append_segment(entity, call.raw_segment(4), engine.limits(), &mut key)?;

    let references;
    let what = match &query.service {
        Some(service) => What::Service(service),
        None => {
            references = references_of(&registry, entity, query.views.as_deref())?;
            What::Features(references.iter().map(String::as_str).collect())
        }
    };
    let none = matches!(&what, What::Features(references) if references.is_empty());
    if none {
        return Err(not_found(entity, &key));
    }
    let ask = Ask { entity_type: Some(&entity_type), what, purpose: Purpose::Online };
    let plan = engine.plan(project, &ask)?;
    let mut batch = Batch::new(1);
    batch.push_row(&[&key]);
    let found = lookup::find(engine, &plan, batch, When::Now, deadline).await?;
    let mut answer = EntityAnswer::new(&registry, &plan.plan);
    found.for_each(|_, column, value| answer.push(column, value)).await;
    let outcome = found.outcome();
    if !answer.found {
        return Err(not_found(entity, &key));
    }
    let metadata = Metadata { latency: deadline.elapsed()?, at: found.at, outcome: &outcome };
    answer.tally.record(&outcome, engine.metrics());
    Ok(respond(Format::Json, answer.finish(entity, &key, &metadata)))
}

/// References to all features of the views named, or of every view of the entity that lookups may
/// ask for.
fn references_of(
    registry: &Registry,
    entity: &EntityType,
    views: Option<&str>,
) -> Result<Vec<String>, Problem> {
    let mut references = Vec::new();
    let mut add = |view: &View| {
        let name = registry.name_of(view);
        references.extend(view.features.iter().map(|feature| format!("{name}:{}", feature.name)));
    };
    let Some(views) = views else {
        let all = registry.views(entity.project);
        all.filter(|view| view.entity == entity.id && view.online).for_each(|view| add(view));
        return Ok(references);
    };
    let mut seen = Vec::new();
    for name in views.split(',') {
        let view = registry.view_named(entity.project, name)?;
        if view.entity != entity.id {
            let needed = registry.entity_of(view).name.clone();
            let (reference, given) = (name.to_owned(), entity.name.clone());
            return Err(ResolveError::MissingEntity { reference, needed, given }.into());
        }
        if !seen.contains(&view.id) {
            seen.push(view.id);
            add(view);
        }
    }
    Ok(references)
}

fn not_found(entity: &EntityType, key: &[u8]) -> Problem {
    let parts = key::parts(&entity.key_types(), key).unwrap_or_default();
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    let id = json::shorten(&parts.join(","));
    Problem::new(Code::EntityNotFound, format!("{} \"{id}\" has no row", entity.name))
}

/// The answer as it grows: the features of each view.
struct EntityAnswer<'a> {
    plan: &'a Plan,
    /// By source of the plan.
    views: Vec<ViewAnswer>,
    missing: Vec<usize>,
    found: bool,
    tally: Tally,
}

struct ViewAnswer {
    name: String,
    features: Vec<u8>,
    newest: Option<EventTime>,
    found: bool,
}

impl<'a> EntityAnswer<'a> {
    fn new(registry: &Registry, plan: &'a Plan) -> Self {
        let view = |source: &crate::registry::plan::Source| ViewAnswer {
            name: registry.name_of(&source.view),
            features: Vec::new(),
            newest: None,
            found: false,
        };
        let views = plan.sources.iter().map(view).collect();
        Self { plan, views, missing: Vec::new(), found: false, tally: Tally::default() }
    }

    fn push(&mut self, column: usize, answer: &Answer<'_>) {
        let asked = &self.plan.columns[column];
        let view = &mut self.views[asked.source];
        if !view.features.is_empty() {
            view.features.push(b',');
        }
        let feature = self.plan.sources[asked.source].view.feature(asked.slot);
        json::write_string(feature.map_or("", |feature| &feature.name), &mut view.features);
        view.features.push(b':');
        match answer.value {
            Some(value) => json::write(value, &mut view.features),
            None => view.features.extend_from_slice(b"null"),
        }
        view.newest = view.newest.max(answer.event_time);
        view.found |= answer.status != Status::NotFound;
        self.found |= view.found;
        if answer.status != Status::Present {
            self.missing.push(column);
        }
        self.tally.add(answer);
    }

    /// Writes it; views without any row of the entity are left out.
    fn finish(self, entity: &EntityType, key: &[u8], metadata: &Metadata<'_>) -> Vec<u8> {
        let mut out = b"{\"entity_type\":".to_vec();
        json::write_string(&entity.name, &mut out);
        out.extend_from_slice(b",\"entity_id\":");
        write_id(entity, key, &mut out);
        let there = || self.views.iter().filter(|view| view.found);
        out.extend_from_slice(b",\"features\":{");
        for (index, view) in there().enumerate() {
            write_name(index, &view.name, &mut out);
            out.push(b'{');
            out.extend_from_slice(&view.features);
            out.push(b'}');
        }
        out.extend_from_slice(b"},\"event_timestamps\":{");
        for (index, view) in there().enumerate() {
            write_name(index, &view.name, &mut out);
            match view.newest {
                Some(time) => json::write_time(time, &mut out),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b"},");
        metadata.write(&mut out, |out| {
            out.extend_from_slice(b",\"missing_features\":[");
            let columns = self.missing.iter().map(|column| &self.plan.columns[*column]);
            let shown = columns.filter(|column| self.views[column.source].found);
            for (index, column) in shown.enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json::write_string(&column.name, out);
            }
            out.push(b']');
        });
        out.push(b'}');
        out
    }
}

fn write_name(index: usize, name: &str, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(b',');
    }
    json::write_string(name, out);
    out.push(b':');
}

/// Appends an entity id as requests may write it: a single key as it is, a composite one as an
/// object.
pub(super) fn write_id(entity: &EntityType, key: &[u8], out: &mut Vec<u8>) {
    let parts = key::parts(&entity.key_types(), key).unwrap_or_default();
    let write = |part: &key::KeyPart<'_>, out: &mut Vec<u8>| match part {
        key::KeyPart::Text(text) => json::write_string(text, out),
        key::KeyPart::Integer(integer) => out.extend_from_slice(integer.to_string().as_bytes()),
    };
    if let [only] = parts.as_slice() {
        return write(only, out);
    }
    out.push(b'{');
    for (index, (join_key, part)) in entity.join_keys.iter().zip(&parts).enumerate() {
        write_name(index, &join_key.name, out);
        write(part, out);
    }
    out.push(b'}');
}
