//! Values, times and names in JSON, as pushes and lookups bring them: what is read is written, and
//! reads the same again.
#![no_main]

use larder::time::{EventTime, TimeUnit};
use larder::value::cell::{Cell, CellRef};
use larder::value::json;
use larder::value::types::FeatureType;
use larder_fuzz::{feature_type, seed};

const TYPES: [&str; 12] = [
    "bool",
    "int32",
    "int64",
    "float32",
    "float64",
    "string",
    "bytes",
    "timestamp",
    "string[]",
    "float32[3]",
    "bool[]",
    "timestamp[]",
];

fn seeds() {
    let texts = [
        "true",
        "-1",
        "1e39",
        "9007199254740993",
        "\"text \\ud83d\\ude00\"",
        "\"AQI=\"",
        "\"2026-11-21T00:00:00Z\"",
        "1795262239143281",
        "[\"a\", \"b\"]",
        "[1, 2.5, 3]",
        "null",
        "float32[384]",
    ];
    for (index, text) in texts.iter().enumerate() {
        seed(&format!("text{index}"), &[&[index as u8], text.as_bytes()].concat());
    }
}

fn check(feature_type: FeatureType, text: &str, unit: Option<TimeUnit>) {
    let Ok(cell) = json::read(feature_type, text, unit) else { return };
    let CellRef::Value(value) = cell.borrowed() else { return };
    let mut written = Vec::new();
    json::write(value, &mut written);
    let written = String::from_utf8(written).expect("JSON is UTF-8");
    let again: Cell = json::read(feature_type, &written, unit).expect("what is written is read");
    assert_eq!(again, cell, "{text} became {written}");
}

libfuzzer_sys::fuzz_target!(init: seeds(), |data: &[u8]| {
    let Some((&which, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Requests are parsed before their values are looked at.
    if is_json(text) {
        check(feature_type(TYPES[usize::from(which) % TYPES.len()]), text, None);
        let _ = json::read_time(text, None);
    }
    let _ = (EventTime::parse(text), FeatureType::parse(text));
});

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
}
