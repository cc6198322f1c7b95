//! What `larder serve --demo` puts into a store: the flights of `examples/flights`, which the
//! binary carries, and what to ask about them.
//!
//! It does not know how a server is run.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::engine::Engine;
use crate::engine::define::DefineOptions;
use crate::engine::error::Problem;
use crate::engine::load::{EventTimes, LoadOptions, Loaded};
use crate::registry::DEFAULT_PROJECT;
use crate::registry::definitions::Definitions;
use crate::time::EventTime;

const DEFINITIONS: &str = include_str!("../../examples/flights/definitions.toml");
const PLANES: &[u8] = include_bytes!("../../examples/flights/planes.parquet");
const WEATHER: &[u8] = include_bytes!("../../examples/flights/weather.parquet");
const FLIGHTS: &[u8] = include_bytes!("../../examples/flights/flights.parquet");

/// 2013-01-01: the register of aircraft says nothing of when it learnt what it says.
const REGISTERED: EventTime = EventTime::from_micros(1_356_998_400_000_000);

/// The loads of `examples/flights/README.md`: file, view, and where the event times come from.
fn loads() -> [(&'static [u8], &'static str, EventTimes); 6] {
    let column = |name: Option<&str>| EventTimes::Column(name.map(str::to_owned));
    [
        (PLANES, "plane", EventTimes::At(REGISTERED)),
        (WEATHER, "weather", column(None)),
        (FLIGHTS, "last_flight_of_aircraft", column(None)),
        (FLIGHTS, "last_flight_on_route", column(None)),
        (FLIGHTS, "last_flight_of_carrier", column(None)),
        (FLIGHTS, "last_arrival_of_aircraft", column(Some("landed_by"))),
    ]
}

/// Defines and loads what is not there yet. Blocking; called on a thread of a tokio runtime that
/// may block.
pub(super) fn fill(engine: &Arc<Engine>) -> Result<(), Problem> {
    let runtime = Handle::current();
    let definitions = Definitions::parse_toml("examples/flights/definitions.toml", DEFINITIONS)?;
    runtime.block_on(engine.define(definitions, DefineOptions::default()))?;
    for (file, view, event_time) in loads() {
        let loaded = load(engine, &runtime, (file, view, event_time))?;
        match loaded.loaded_before {
            Some(at) => tracing::info!(view, rows = loaded.rows, %at, "loaded before"),
            None => tracing::info!(view, rows = loaded.rows, "loaded"),
        }
    }
    Ok(())
}

fn load(
    engine: &Arc<Engine>,
    runtime: &Handle,
    (file, view, event_time): (&[u8], &str, EventTimes),
) -> Result<Loaded, Problem> {
    let registry = engine.registry();
    let project = registry.project_named(DEFAULT_PROJECT)?;
    let view = registry.view_named(project, view)?.clone();
    let turn = engine.begin_load()?;
    let mut spool = engine.spool()?;
    spool.write(file)?;
    let options = LoadOptions { event_time, arrival: None, time_unit: None, refuse_nan: false };
    runtime.block_on(engine.load(turn, view, spool.finish(), options, |_, _| {}))
}

/// What the terminal says once the data is there: three questions that answer.
pub(super) fn invitation(listen: SocketAddr) -> Vec<String> {
    let ask = |what: &str, body: &str| {
        format!(
            "\n# {what}\ncurl -s http://{listen}/api/v1/features/online \
             -H 'content-type: application/json' -d '{body}'"
        )
    };
    vec![
        format!("\nThe demo is ready at http://{listen}. Ask it:"),
        ask(
            "one aircraft",
            r#"{"entity_type":"tailnum","entity_id":"N14228","service":"aircraft"}"#,
        ),
        ask(
            "the weather at Newark as it stood in the rain of 22 August 2013",
            concat!(
                r#"{"entity_type":"origin","entity_id":"EWR","as_of":"2013-08-22T13:30:00Z","#,
                r#""feature_names":["weather:temp","weather:wind_speed","weather:precip","#,
                r#""weather:visib"]}"#,
            ),
        ),
        ask(
            "all that a model of delays asks for, over six entities",
            concat!(
                r#"{"service":"departure_delay","entities":{"tailnum":"N711ZX","carrier":"DL","#,
                r#""route":{"origin":"JFK","dest":"SFO"},"origin":"JFK","#,
                r#""dest_airport":"SFO","alternate_airport":"EWR"}}"#,
            ),
        ),
    ]
}
