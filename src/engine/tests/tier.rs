//! Views of which the rows are on disk.
//!
//! They do not know the bytes there; it is `checkpoint` that names sled.

use super::*;

impl Store {
    /// Waits until the views with rows in the cold store are these.
    async fn holds_on_disk(&self, views: &[ViewId]) {
        let tier = &self.engine().shared.stores.tier().unwrap().tier;
        let waited = crate::time::Stopwatch::start();
        while tier.views_in_cold().unwrap() != views {
            assert!(waited.elapsed().as_secs() < 60, "{:?}", tier.views_in_cold());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn rows_on_disk_survive_the_loss_of_the_tier() {
    let mut store = Store::new();
    let on_disk = DEFINITIONS.replace("ttl = \"10s\"", "ttl = \"10s\"\ntier = \"disk\"");
    let definitions = Definitions::parse_toml("test", &on_disk).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    for n in 0..200 {
        let user = format!("u{n}");
        store.push(&[(&user, Some(95), age(n), country("AE"))]).await.unwrap();
        let late = store.push(&[(&user, Some(94), age(-1), Cell::Null)]).await.unwrap();
        assert_eq!(late.superseded, 1);
    }
    let expected = |n: i32| vec![present(Value::Int32(n)), present(Value::String("AE".into()))];
    for restart in 0..3 {
        for n in 0..200 {
            let (answers, fallback) = store.now_on_disk(&format!("u{n}")).await;
            assert_eq!((answers, fallback), (expected(n), None), "restart {restart}");
        }
        store.restart(restart == 1);
    }
    store.engine.take().unwrap().close();
    std::fs::remove_dir_all(store.directory.path().join("disk")).unwrap();
    store.engine = Some(open_at(store.directory.path(), &store.clock, Durability::Sync));
    let mut fell_back = 0;
    let waited = crate::time::Stopwatch::start();
    loop {
        let (answers, fallback) = store.now_on_disk("u7").await;
        assert_eq!(answers, expected(7));
        match fallback {
            Some(_) => fell_back += 1,
            None => break,
        }
        assert!(waited.elapsed().as_secs() < 60, "the tier was never rebuilt");
        store.push(&[("u7", Some(93), age(-2), Cell::Null)]).await.unwrap();
    }
    assert!(fell_back > 0, "history never answered for the lost tier");
    for n in 0..200 {
        assert_eq!(store.now_on_disk(&format!("u{n}")).await, (expected(n), None));
    }
}

/// Rows of a dropped view leave the disk beside the writer. What an end in the middle of that left
/// behind goes after the next start.
#[tokio::test]
async fn a_dropped_view_leaves_the_disk() {
    let mut store = Store::new();
    let other = "\n[view.other]\nentity = \"user\"\ntier = \"disk\"\nfeatures.age = \"int32\"\n";
    let both = format!("{}{other}", DEFINITIONS.replace("ttl = \"10s\"", "tier = \"disk\""));
    let definitions = Definitions::parse_toml("test", &both).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    let id = |name| store.engine().registry().view_named(PROJECT, name).unwrap().id;
    let (profile, other) = (id("profile"), id("other"));
    store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap();
    store.holds_on_disk(&[profile]).await;
    store.engine().drop_view(PROJECT, "profile", Data::Keep).await.unwrap();
    store.holds_on_disk(&[]).await;

    let put = |store: &Store, view| {
        let tier = &store.engine().shared.stores.tier().unwrap().tier;
        let _ = tier.put(view, b"key", Sequence(1), b"state");
    };
    put(&store, profile);
    put(&store, other);
    store.holds_on_disk(&[profile, other]).await;
    store.restart(false);
    store.holds_on_disk(&[other]).await;
    store.engine().drop_view(PROJECT, "other", Data::Keep).await.unwrap();
    store.restart(false);
    assert!(!store.directory.path().join("disk").exists(), "no view needs it");
}

#[tokio::test]
async fn a_repeat_is_answered_the_same_although_the_disk_tier_had_failed() {
    let store = Store::new();
    let on_disk = DEFINITIONS.replace("ttl = \"10s\"", "tier = \"disk\"");
    let definitions = Definitions::parse_toml("test", &on_disk).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    store.push(&[("u1", Some(95), age(1), Cell::Null)]).await.unwrap();
    store.engine().shared.stores.tier().unwrap().broke("on purpose");
    let late = [("u1", Some(90), age(2), Cell::Null)];
    let first = store.push_keyed(&late, Some("k")).await.unwrap();
    assert_eq!(store.push_keyed(&late, Some("k")).await.unwrap(), first);
    let copy = store.as_after_a_crash();
    assert_eq!(copy.push_keyed(&late, Some("k")).await.unwrap(), first);
}
