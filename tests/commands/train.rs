//! `larder train` over the flights of the example, against scans of the example's files.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Server, expected, flights, larder, load, text, with_definitions, write};

fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let reader = reader.build().unwrap();
    let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
    concat_batches(&schema, &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

fn texts(table: &RecordBatch, name: &str) -> Vec<String> {
    let column = table.column_by_name(name).unwrap();
    let column = arrow::compute::cast(column, &DataType::Utf8).unwrap();
    column.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}

fn times(table: &RecordBatch, name: &str) -> Vec<i64> {
    let column = table.column_by_name(name).unwrap();
    column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

fn numbers(table: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let column = table.column_by_name(name).unwrap();
    match column.data_type() {
        DataType::Float32 => {
            column.as_primitive::<Float32Type>().iter().map(|n| n.map(f64::from)).collect()
        }
        _ => column.as_primitive::<Float64Type>().iter().collect(),
    }
}

/// Rows of a table by key, with their times, in file order.
fn by_key(keys: Vec<String>, times: Vec<i64>) -> HashMap<String, Vec<(i64, usize)>> {
    let mut rows: HashMap<String, Vec<(i64, usize)>> = HashMap::new();
    for (row, (key, time)) in keys.into_iter().zip(times).enumerate() {
        rows.entry(key).or_default().push((time, row));
    }
    rows
}

/// The last of the newest rows at or before an instant, by looking at all of the key.
fn newest(rows: &HashMap<String, Vec<(i64, usize)>>, key: &str, at: i64) -> Option<usize> {
    let rows = rows.get(key)?.iter().filter(|(time, _)| *time <= at);
    rows.max().map(|(_, row)| *row)
}

const SERVICE: [&str; 12] = [
    "train",
    "--service",
    "departure_delay",
    "--timestamp",
    "scheduled",
    "--entity",
    "dest_airport=dest",
    "--entity-map",
    "alternate_airport=origin",
    "--out",
    "t.parquet",
    "--labels",
];

fn check_departures(made: &RecordBatch) {
    let labels = read(&flights("flights.parquet"));
    let columns: Vec<usize> = (0..labels.num_columns()).collect();
    assert_eq!(made.project(&columns).unwrap().columns(), labels.columns());
    let weather = read(&flights("weather.parquet"));
    let of_weather = by_key(texts(&weather, "origin"), times(&weather, "event_timestamp"));
    let (at, origin, dest) =
        (times(&labels, "scheduled"), texts(&labels, "origin"), texts(&labels, "dest"));
    let routes = |table: &RecordBatch| -> Vec<String> {
        let ends = texts(table, "origin").into_iter().zip(texts(table, "dest"));
        ends.map(|(from, to)| format!("{from} {to}")).collect()
    };
    let of_route = by_key(routes(&labels), times(&labels, "event_timestamp"));
    let check = |name: &str, expected: &dyn Fn(usize) -> Option<f64>| {
        let found = numbers(made, name);
        let expected: Vec<Option<f64>> = (0..labels.num_rows()).map(expected).collect();
        assert!(found == expected, "{name}");
        assert!(name.starts_with("dest_") || found.iter().flatten().count() > 10_000, "{name}");
    };
    let (temp, gust) = (numbers(&weather, "temp"), numbers(&weather, "wind_gust"));
    check("weather__temp", &|row| temp[newest(&of_weather, &origin[row], at[row])?]);
    check("alternate_temp", &|row| temp[newest(&of_weather, &origin[row], at[row])?]);
    check("dest_temp", &|row| temp[newest(&of_weather, &dest[row], at[row])?]);
    // The definitions say: no gust is a gust of 0.
    check("weather__wind_gust", &|row| {
        let newest = newest(&of_weather, &origin[row], at[row]);
        newest.and_then(|newest| gust[newest]).or(Some(0.0))
    });
    let (late, route) = (numbers(&labels, "dep_delay_min"), routes(&labels));
    check("last_flight_on_route__dep_delay_min", &|row| {
        let newest = newest(&of_route, &route[row], at[row]);
        newest.and_then(|newest| late[newest]).or(Some(0.0))
    });
}

#[test]
fn a_training_set_of_flights_equals_a_scan_and_is_the_same_from_a_server() {
    let dir = with_definitions();
    let dir = dir.path();
    for entry in expected()["loads"].as_array().unwrap() {
        load(dir, entry).expect(0, &[]);
    }
    let labels = flights("flights.parquet");
    let arguments: Vec<&str> = SERVICE.into_iter().chain([text(&labels)]).collect();
    let train = |more: &[&str]| larder(dir, &[&arguments[..], more].concat());
    let said = ["t.parquet: 19326 labels, 20 feature columns", "19326 of 19326 (100%)"];
    let ran = train(&["--data", "data"]).expect(0, &said);
    assert!(ran.out.contains("  dest_temp: 19326 of 19326 without a value"), "{}", ran.out);
    let made = read(&dir.join("t.parquet"));
    check_departures(&made);

    let server = Server::start(dir, &["--data", "data"]);
    std::fs::remove_file(dir.join("t.parquet")).unwrap();
    train(&["--server", &server.url, "--allow-truncated"]).expect(0, &[said[0]]);
    assert_eq!(read(&dir.join("t.parquet")), made);

    // What is refused is the same from both, and leaves what was there alone.
    let before = std::fs::read(dir.join("t.parquet")).unwrap();
    let refused = |more: &[&str], words: &[&str]| {
        let labels = ["train", "--labels", text(&labels), "--out", "t.parquet"];
        let server = ["--server", &server.url];
        let ran = larder(dir, &[&labels, more, &server].concat());
        ran.expect(1, &[words, &["t.parquet was not made"]].concat());
        assert_eq!(std::fs::read(dir.join("t.parquet")).unwrap(), before);
        assert!(!dir.join("t.parquet.tmp").exists());
    };
    refused(&["--service", "departure"], &["UNKNOWN_SERVICE", "departure_delay"]);
    refused(&["--features", "weather:tmp"], &["UNKNOWN_FEATURE", "weather:temp"]);
    refused(&["--features", "weather:temp", "--timestamp", "when"], &["when: ", "no such column"]);
    let mapped = ["--features", "weather:temp", "--entity", "origin=orign"];
    refused(&mapped, &["orign", "did you mean \"origin\"?"]);
    refused(
        &["--features", "last_flight_of_aircraft:carrier", "--names", "bare"],
        &["\"carrier\" would collide"],
    );
    write(dir, "cut.parquet", &std::fs::read(&labels).unwrap()[..9000]);
    let cut = ["train", "--labels", "cut.parquet", "--out", "t.parquet"];
    larder(dir, &[&cut[..], &["--features", "weather:temp", "--server", &server.url]].concat())
        .expect(1, &["MALFORMED_REQUEST", "Parquet"]);
    server.stop();
}
