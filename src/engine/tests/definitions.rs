//! Definitions that change, and what becomes of the rows.
//!
//! They do not know the rules of a change; `registry` tests those.

use super::*;

#[tokio::test]
async fn definitions_survive_and_contradictions_change_nothing() {
    let mut store = Store::defined().await;
    store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap();
    let other = DEFINITIONS.replace("\"int32\"", "\"int64\"");
    let definitions = Definitions::parse_toml("test", &other).unwrap();
    let refused = store.engine().define(definitions, DefineOptions::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::IncompatibleDefinition);
    let more = DEFINITIONS.replace("age = \"int32\"", "age = \"int32\"\nscore = \"float64\"");
    let definitions = Definitions::parse_toml("test", &more).unwrap();
    let dry = DefineOptions { dry_run: true, ..DefineOptions::default() };
    let planned = store.engine().define(definitions.clone(), dry).await.unwrap();
    assert_eq!(planned.changes.len(), 1);
    let defined =
        store.engine().define(definitions.clone(), DefineOptions::default()).await.unwrap();
    assert!(defined.sequence > planned.sequence);
    for forget in [false, true] {
        store.restart(forget);
        let again =
            store.engine().define(definitions.clone(), DefineOptions::default()).await.unwrap();
        assert_eq!((again.changes.len(), again.sequence), (0, defined.sequence));
        assert_eq!(store.now("u1")[0], present(Value::Int32(1)));
    }
    let stale = DefineOptions { if_match: Some(planned.sequence), ..DefineOptions::default() };
    let refused = store.engine().define(definitions, stale).await.unwrap_err();
    assert_eq!(refused.code, Code::SequenceMismatch);
    store.engine().drop_view(PROJECT, "profile", Data::Keep).await.unwrap();
    store.restart(true);
    assert!(store.engine().registry().view_named(PROJECT, "profile").is_err());
    assert_eq!(store.engine().rows_per_view(), []);
}

#[tokio::test]
async fn a_view_that_is_no_longer_online_keeps_no_rows_in_memory() {
    let mut store = Store::defined().await;
    store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap();
    store.restart(false);
    assert_eq!(store.engine().rows_per_view().iter().map(|(_, rows)| rows).sum::<u64>(), 1);
    let offline = DEFINITIONS.replace("ttl = \"10s\"", "online = false");
    let definitions = Definitions::parse_toml("test", &offline).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    assert_eq!(store.engine().rows_per_view(), []);
    for forget in [false, true, false] {
        store.restart(forget);
        assert_eq!(store.engine().rows_per_view(), []);
    }
    let online = Definitions::parse_toml("test", DEFINITIONS).unwrap();
    let refused = store.engine().define(online, DefineOptions::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::IncompatibleDefinition);
}
