//! Compares an answer value by value with the known data.
//!
//! It does not know how answers are received. What it does may allocate: it sees a sample.

use serde_json::Value as Json;

use crate::data::{self, Kind};
use crate::scenario::Scenario;
use crate::target::Protocol;
use crate::wire::request::references;
use crate::wire::resp::{Element, element};

/// Says what is wrong with the answer `body` to a read of `entities`.
pub(crate) fn read(
    scenario: &Scenario,
    protocol: Protocol,
    entities: &[u64],
    body: &[u8],
) -> Result<(), String> {
    match protocol {
        Protocol::Static => Ok(()),
        Protocol::Redis => redis(scenario, entities, body),
        Protocol::Larder if entities.len() == 1 => larder_one(scenario, entities[0], &json(body)?),
        Protocol::Larder => larder_batch(scenario, entities, &json(body)?),
        Protocol::Feast => feast(scenario, entities, &json(body)?),
    }
}

/// Says what is wrong with the answer `body` to the write of one row.
pub(crate) fn write(protocol: Protocol, body: &[u8]) -> Result<(), String> {
    if protocol != Protocol::Larder {
        return Ok(());
    }
    let answer = json(body)?;
    match answer["accepted"].as_u64() {
        Some(1) => Ok(()),
        _ => Err(format!("a write of one row was answered {answer}")),
    }
}

fn json(body: &[u8]) -> Result<Json, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))
}

fn larder_one(scenario: &Scenario, entity: u64, answer: &Json) -> Result<(), String> {
    let kinds = scenario.asked();
    let features = answer["features"].as_object().ok_or("an answer without features")?;
    if features.len() != kinds.len() {
        return Err(format!("{} features were asked, {} came", kinds.len(), features.len()));
    }
    for (feature, (reference, kind)) in references(scenario).iter().zip(kinds).enumerate() {
        one(scenario, (entity, feature, kind), features.get(reference).unwrap_or(&Json::Null))?;
    }
    let entity_id = &answer["entity_id"];
    let key = data::key(scenario.data.versioned().map_or(entity, |entities| entity % entities));
    if *entity_id != key { Err(format!("{key} was asked, {entity_id} came")) } else { Ok(()) }
}

fn larder_batch(scenario: &Scenario, entities: &[u64], answer: &Json) -> Result<(), String> {
    let rows = answer["rows"].as_array().ok_or("an answer without rows")?;
    same_length(entities.len(), rows.len())?;
    let kinds = scenario.asked();
    for (entity, row) in entities.iter().zip(rows) {
        let row = row.as_array().ok_or("a row that is no list")?;
        same_length(kinds.len(), row.len())?;
        for (feature, (found, kind)) in row.iter().zip(&kinds).enumerate() {
            one(scenario, (*entity, feature, *kind), found)?;
        }
    }
    Ok(())
}

/// Columns in an order of Feast's own, which it tells.
fn feast(scenario: &Scenario, entities: &[u64], answer: &Json) -> Result<(), String> {
    let names = answer["metadata"]["feature_names"].as_array().ok_or("an answer without names")?;
    for (feature, kind) in scenario.asked().into_iter().enumerate() {
        let name = data::feature_name(feature);
        let column = names.iter().position(|found| *found == name.as_str());
        let column = column.ok_or_else(|| format!("{name} was asked and did not come"))?;
        let values = &answer["results"][column]["values"];
        same_length(entities.len(), values.as_array().map_or(0, Vec::len))?;
        for (row, entity) in entities.iter().enumerate() {
            one(scenario, (*entity, feature, kind), &values[row])?;
        }
    }
    Ok(())
}

fn redis(scenario: &Scenario, entities: &[u64], replies: &[u8]) -> Result<(), String> {
    let mut rest = replies;
    let mut next = || -> Result<Element<'_>, String> {
        let (found, length) = element(rest)?.ok_or("a reply that is cut off")?;
        rest = &rest[length..];
        Ok(found)
    };
    for entity in entities {
        let features = scenario.request.features;
        if next()? != Element::Array(features) {
            return Err(format!("no list of {features} fields"));
        }
        for feature in 0..features {
            let found = match next()? {
                Element::Text(text) => {
                    let text = String::from_utf8_lossy(text);
                    text.trim().parse::<u64>().map_or(Json::Null, Json::from)
                }
                _ => Json::Null,
            };
            one(scenario, (*entity, feature, Kind::Int64), &found)?;
        }
    }
    Ok(())
}

fn same_length(asked: usize, found: usize) -> Result<(), String> {
    if asked == found { Ok(()) } else { Err(format!("{asked} were asked, {found} came")) }
}

fn one(
    scenario: &Scenario,
    (entity, feature, kind): (u64, usize, Kind),
    found: &Json,
) -> Result<(), String> {
    let known = (entity < scenario.data.rows()).then(|| data::value(entity, feature, kind));
    let right = known.as_ref().map_or(found.is_null(), |value| value.is(found));
    if right {
        return Ok(());
    }
    let (key, name) = (data::key(entity), data::feature_name(feature));
    Err(format!("{name} of {key} is {found}, expected {known:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(entities: usize) -> Scenario {
        Scenario::parse(&format!(
            r#"name = "a"
            about = "b"
            data = {{ view = "v", entities = 10, features = {{ int64 = 3 }} }}
            request = {{ entities = {entities}, features = 2, check_one_in = 1 }}
            keys = {{ distribution = "uniform" }}
            load = {{ rate = 10, connections = 1 }}"#
        ))
        .unwrap()
    }

    fn values(entity: u64) -> [u64; 2] {
        [data::int64(entity, 0), data::int64(entity, 1)]
    }

    fn check(protocol: Protocol, entities: &[u64], body: &str, expected: &str) {
        let found = read(&scenario(entities.len()), protocol, entities, body.as_bytes());
        let said = found.map_or_else(|why| why, |()| "right".to_owned());
        assert!(said.contains(expected), "{body}: {said}");
    }

    #[test]
    fn right_answers_are_right_and_others_are_not() {
        let ([a, b], [c, d]) = (values(3), values(4));
        let one = |id: &str, a: u64| {
            format!("{{\"entity_id\":\"{id}\",\"features\":{{\"v:f000\":{a},\"v:f001\":{b}}}}}")
        };
        check(Protocol::Larder, &[3], &one("u00000003", a), "right");
        check(Protocol::Larder, &[3], &one("u00000004", a), "u00000003 was asked");
        check(Protocol::Larder, &[3], &one("u00000003", a + 1), "f000 of u00000003 is");
        check(Protocol::Larder, &[3], "{\"features\":{\"v:f000\":1}}", "2 features were asked");
        check(Protocol::Larder, &[3], "nothing", "no JSON");

        let rows = format!("{{\"rows\":[[{a},{b}],[null,null],[{c},{d}]]}}");
        check(Protocol::Larder, &[3, 10, 4], &rows, "right");
        check(Protocol::Larder, &[3, 4, 4], &rows, "f000 of u00000004 is null");
        check(Protocol::Larder, &[3, 4], &rows, "2 were asked, 3 came");

        let columns = format!(
            "{{\"metadata\":{{\"feature_names\":[\"id\",\"f001\",\"f000\"]}},\"results\":\
             [{{\"values\":[]}},{{\"values\":[{b},{d}]}},{{\"values\":[{a},{c}]}}]}}"
        );
        check(Protocol::Feast, &[3, 4], &columns, "right");
        check(Protocol::Feast, &[4, 3], &columns, "f000 of u00000004 is");
        check(Protocol::Feast, &[3, 4], &columns.replace("f001", "f002"), "f001 was asked");
        check(Protocol::Feast, &[3], &columns, "1 were asked, 2 came");

        let reply = |a: u64, b: u64| format!("*2\r\n$6\r\n{a:>6}\r\n$6\r\n{b:>6}\r\n");
        check(Protocol::Redis, &[3, 4], &(reply(a, b) + &reply(c, d)), "right");
        check(Protocol::Redis, &[3, 4], &(reply(a, b) + &reply(c, a)), "f001 of u00000004 is");
        check(Protocol::Redis, &[3, 10], &(reply(a, b) + "*2\r\n$-1\r\n$-1\r\n"), "right");
        check(Protocol::Redis, &[3, 4], &reply(a, b), "cut off");
    }

    #[test]
    fn a_write_accepts_one_row() {
        assert!(write(Protocol::Larder, b"{\"accepted\":1}").is_ok());
        assert!(write(Protocol::Larder, b"{\"accepted\":0}").is_err());
    }
}
