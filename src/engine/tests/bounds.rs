//! Retention and erasure as a whole: floors that refuse, a base that rebuilds, entities that are
//! gone from every answer at once and from every file in time.
//!
//! They do not look inside files, but for bytes that must not be there.

use super::*;
use crate::disk::Disk;
use crate::engine::as_of::AsOfAnswers;
use crate::engine::restore;
use crate::history::backup::take;
use crate::time::Stopwatch;

pub(super) const DAY: i64 = 86_400;

pub(super) async fn store_with(view: &str) -> Store {
    let mut store = Store::new();
    store.engine.take().unwrap().close();
    store.engine = Some(open_with(busy(store.directory.path()), &store.clock));
    let definitions = DEFINITIONS.replace("ttl = \"10s\"", view);
    let definitions = Definitions::parse_toml("test", &definitions).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    store
}

/// Starts again with nothing but history.
pub(super) fn restart_from_history(store: &mut Store) {
    store.engine.take().unwrap().close();
    for derived in ["checkpoint", "disk"] {
        let _ = std::fs::remove_dir_all(store.directory.path().join(derived));
    }
    store.engine = Some(open_with(busy(store.directory.path()), &store.clock));
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = Stopwatch::start();
    while !holds() {
        assert!(waited.elapsed().as_secs() < 120, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn read(
    store: &Store,
    user: &str,
    (seconds, known_at): (i64, Option<i64>),
    allow_truncated: bool,
) -> Result<AsOfAnswers, Problem> {
    let purpose = Purpose::AsOf;
    let ask = Ask { entity_type: Some("user"), what: What::Features(FEATURES.to_vec()), purpose };
    let plan = store.engine().plan(PROJECT, &ask).unwrap();
    let mut batch = Batch::new(1);
    batch.push_row(&[&user_key(user)]);
    let times = vec![at(seconds).as_event_time()];
    let ask = AsOf { plan, batch, times, known_at: known_at.map(at), allow_truncated };
    store.engine().as_of(ask, Deadline::after(Span::from_seconds(60))).await
}

/// What lookups answer, by whatever way.
pub(super) async fn online(store: &Store, tier: &str, user: &str) -> Vec<(Status, Option<Value>)> {
    match tier {
        "disk" => store.now_on_disk(user).await.0,
        _ => store.now(user),
    }
}

#[tokio::test]
async fn retention_refuses_what_it_took_and_keeps_the_newest() {
    for tier in ["memory", "disk"] {
        let mut store = store_with(&format!("retention = \"1h\"\ntier = \"{tier}\"")).await;
        let view = store.engine().registry().view_named(PROJECT, "profile").unwrap().id;
        for n in 0..60 {
            store.clock.advance(Span::from_seconds(60));
            let said = if n % 3 == 0 { country("AE") } else { Cell::Absent };
            let rows: Vec<_> =
                ["u0", "u1", "u2"].map(|user| (user, None, age(n), said.clone())).into();
            store.push(&rows).await.unwrap();
        }
        let expected = [present(Value::Int32(59)), present(Value::String("AE".into()))];
        assert_eq!(store.then("u1", 100 + 60 * 30).await[0], present(Value::Int32(29)));
        // An age of three hours.
        store.clock.advance(Span::from_seconds(3 * 3600));
        let now = 100 + 3600 + 3 * 3600;
        let floor = at(now - 3600).as_event_time();
        let history = store.engine().shared.history.clone();
        eventually("the floor moves", || history.bounds().floor(view) == Some(floor)).await;
        let metrics = store.engine().metrics().clone();
        eventually("rows go", || metrics.rows_dropped.get() > 50).await;
        for round in 0..2 {
            for (asked, said) in [
                ((now - 3601, None), "row 0 asks as of 2026"),
                ((now, Some(now - 3601)), "row 0 asks what was known at 2026"),
            ] {
                let refused = read(&store, "u1", asked, false).await.err().unwrap();
                assert_eq!(refused.code, Code::BelowRetentionFloor, "{tier} {round}");
                let detail = &refused.detail;
                assert!(detail.contains(said) && detail.contains("view profile"), "{detail}");
                assert!(detail.contains(&floor.to_string()), "{detail}");
                let mut cells = Vec::new();
                let marked = read(&store, "u1", asked, true).await.unwrap();
                marked.answer(0..1, |_, _, answer| {
                    cells.push((answer.status, answer.value.is_some()))
                });
                assert_eq!(cells, [(Status::BelowRetentionFloor, false); 2], "{tier} {round}");
            }
            for user in ["u0", "u1", "u2"] {
                assert_eq!(online(&store, tier, user).await, expected, "{tier} {round}");
                assert_eq!(store.then(user, now - 3600).await, expected, "{tier} {round}");
                assert_eq!(store.then(user, now).await, expected, "{tier} {round}");
            }
            restart_from_history(&mut store);
        }
        check_whole(store);
    }
}

/// Whether some file of the data directory has these bytes.
pub(super) fn lies_in(directory: &Path, bytes: &[u8]) -> Option<std::path::PathBuf> {
    // A directory may go while it is looked for.
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if let Some(found) = lies_in(&path, bytes) {
                return Some(found);
            }
        } else if let Ok(content) = std::fs::read(&path)
            && content.windows(bytes.len()).any(|window| window == bytes)
        {
            return Some(path);
        }
    }
    None
}

async fn listed(store: &Store) -> (Vec<String>, u64) {
    let (engine, registry) = (store.engine(), store.engine().registry());
    let entity = registry.entity_named(PROJECT, "user").unwrap().clone();
    let deadline = Deadline::after(Span::from_seconds(60));
    let count = engine.entity_count(entity.id, deadline).await.unwrap();
    let page = engine.entities(entity, String::new(), 100, None, deadline).await.unwrap();
    (page.ids.concat(), count)
}

pub(super) fn nobody() -> [(Status, Option<Value>); 2] {
    [(Status::NotFound, None), unknown(Status::NotFound)]
}

#[tokio::test]
async fn an_erased_entity_is_gone_from_answers_at_once_and_from_files_in_time() {
    for tier in ["memory", "disk"] {
        let mut store = store_with(&format!("tier = \"{tier}\"")).await;
        let registry = store.engine().registry();
        let user = registry.entity_named(PROJECT, "user").unwrap().id;
        for n in 0..200 {
            let name = ["secret-user", "u1", "u2"][n as usize % 3];
            store.push(&[(name, Some(50), age(n), country("AE"))]).await.unwrap();
        }
        let rows = [("secret-user", Some(60), age(1000), Cell::Absent)];
        let first = store.push_keyed(&rows, Some("k")).await.unwrap();
        assert_eq!(online(&store, tier, "secret-user").await[0], present(Value::Int32(1000)));
        let key = user_key("secret-user");
        let erased = store.engine().erase(user, &key).await.unwrap();
        assert!(erased.sequence > first.sequence);
        assert_eq!(erased.deadline.since(erased.requested), Span::from_seconds(7 * DAY));
        let others = (vec!["u1".to_owned(), "u2".to_owned()], 2);
        let check_gone = async |store: &Store, when: &str| {
            let user = "secret-user";
            assert_eq!(online(store, tier, user).await, nobody(), "{tier} {when}");
            for seconds in [55, 60, 100_000_000] {
                assert_eq!(store.then(user, seconds).await, nobody(), "{tier} {when}");
            }
            assert_eq!(listed(store).await, others, "{tier} {when}");
            for (user, n) in [("u1", 199), ("u2", 197)] {
                let expected = present(Value::Int32(n));
                assert_eq!(online(store, tier, user).await[0], expected, "{tier} {when}");
            }
        };
        check_gone(&store, "at once").await;
        assert_eq!(store.push_keyed(&rows, Some("k")).await.unwrap().sequence, first.sequence);
        check_gone(&store, "after a repeated push").await;
        restart_from_history(&mut store);
        check_gone(&store, "from history alone").await;
        // What is written later lives, however old it is.
        store.push(&[("secret-user", Some(10), age(7), Cell::Absent)]).await.unwrap();
        let lives = [present(Value::Int32(7)), unknown(Status::NotFound)];
        for _ in 0..2 {
            assert_eq!(online(&store, tier, "secret-user").await, lives, "{tier}");
            assert_eq!(store.then("secret-user", 60).await, lives, "{tier}");
            assert_eq!(store.then("secret-user", 9).await, nobody(), "{tier}");
            assert_eq!(listed(&store).await.1, 3, "{tier}");
            restart_from_history(&mut store);
        }
        let data = store.directory.path().to_owned();
        if tier == "disk" {
            let tier = data.join("disk");
            eventually("rows move to the tier", || lies_in(&tier, b"secret-user").is_some()).await;
        }
        let again = store.engine().erase(user, &key).await.unwrap();
        assert!(again.sequence > erased.sequence);
        check_gone(&store, "again").await;
        assert!(lies_in(&data, b"secret-user").is_some());
        let state = |store: &Store, sequence| store.engine().erasure(PROJECT, sequence).unwrap();
        assert_eq!(state(&store, erased.sequence), erased);
        store.clock.advance(Span::from_seconds(3 * DAY + DAY / 2 + 1));
        eventually("it is done", || state(&store, again.sequence).done.is_some()).await;
        assert_eq!(state(&store, erased.sequence).done, state(&store, again.sequence).done);
        assert_eq!(lies_in(&data, b"secret-user"), None, "{tier}");
        check_gone(&store, "once done").await;
        assert_eq!(store.engine().metrics().erasures_pending.get(), 0);
        restart_from_history(&mut store);
        check_gone(&store, "done, from history alone").await;
        assert!(state(&store, erased.sequence).done.is_some());
        assert_eq!(store.engine().erasure(PROJECT, Sequence(1)), None);
        assert_eq!(store.engine().erasure(ProjectId(9), again.sequence), None);
        check_whole(store);
    }
}

#[tokio::test]
async fn an_erasure_is_not_done_while_somebody_reads_a_file_that_was_removed() {
    for by_backup in [false, true] {
        let store = store_with("tier = \"memory\"").await;
        let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
        for n in 0..200 {
            let name = ["secret-user", "u1", "u2"][n as usize % 3];
            let land = if n % 3 == 0 { country("hidden land") } else { country("AE") };
            store.push(&[(name, Some(50), age(n), land)]).await.unwrap();
        }
        let metrics = store.engine().metrics().clone();
        eventually("it is sealed", || metrics.sealed_files.get() > 0).await;
        let history = store.engine().shared.history.clone();
        let read = (!by_backup).then(|| history.as_of(Sequence::MAX, None).unwrap());
        let backup = match by_backup {
            true => Some(store.engine().begin_backup().await.unwrap().id),
            false => None,
        };
        let erased = store.engine().erase(user, &user_key("secret-user")).await.unwrap();
        store.clock.advance(Span::from_seconds(4 * DAY));
        let data = store.directory.path();
        eventually("no file has it", || lies_in(data, b"hidden land").is_none()).await;
        // Time for whoever would say that it is done.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let done = || store.engine().erasure(PROJECT, erased.sequence).unwrap().done.is_some();
        assert!(!done(), "by backup: {by_backup}");
        assert_eq!(history.is_all_let_go(), by_backup);
        drop(read);
        if let Some(backup) = backup {
            assert!(store.engine().end_backup(backup));
        }
        eventually("it is done", done).await;
    }
}

/// What was rewritten without some rows is no damage.
pub(super) fn check_whole(mut store: Store) {
    store.engine.take().unwrap().close();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let report = crate::engine::verify::run(&disk, store.directory.path(), &mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.derived.is_empty(), "{:?}", report.derived);
}

#[tokio::test]
async fn a_repeated_erasure_is_the_pending_one_and_their_number_has_a_limit() {
    let mut store = Store::new();
    store.engine.take().unwrap().close();
    let limits = Limits { pending_erasures: 3, ..Limits::default() };
    let options = Options { limits, ..options(store.directory.path(), Durability::Sync) };
    store.engine = Some(open_with(options, &store.clock));
    let definitions = Definitions::parse_toml("test", DEFINITIONS).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
    let erase = async |key: &str| store.engine().erase(user, &user_key(key)).await;
    store.push(&[("u1", None, age(1), Cell::Absent)]).await.unwrap();
    let first = erase("u1").await.unwrap();
    // Others go on being written.
    store.push(&[("u2", None, age(1), Cell::Absent)]).await.unwrap();
    assert_eq!(erase("u1").await.unwrap(), first);
    // However old what was written since is.
    store.push(&[("u1", Some(10), age(1), Cell::Absent)]).await.unwrap();
    let second = erase("u1").await.unwrap();
    assert!(second.sequence > first.sequence);
    assert_eq!(erase("u1").await.unwrap(), second);
    erase("u3").await.unwrap();
    let refused = erase("u4").await.unwrap_err();
    assert_eq!(refused.code, Code::Overloaded);
    assert!(refused.detail.contains("limits.pending_erasures is 3"), "{}", refused.detail);
    assert_eq!(erase("u1").await.unwrap(), second, "what is pending anyway is not refused");
}

#[tokio::test]
async fn an_erasure_survives_a_crash() {
    let mut store = Store::defined().await;
    let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
    let rows = [("u1", Some(95), age(1), country("AE")), ("u2", Some(95), age(2), Cell::Absent)];
    store.push(&rows).await.unwrap();
    // The checkpoint knows the entity.
    store.restart(false);
    let erased = store.engine().erase(user, &user_key("u1")).await.unwrap();
    store.push(&[("u1", Some(94), age(3), Cell::Absent)]).await.unwrap();
    let crashed = store.as_after_a_crash();
    let copied = tempfile::tempdir().unwrap();
    copy(store.directory.path(), copied.path(), &["history", "checkpoint"]);
    let engine = Some(open_at(copied.path(), &store.clock, Durability::Sync));
    let with_checkpoint = Store { directory: copied, clock: store.clock.clone(), engine };
    for store in [store, crashed, with_checkpoint] {
        assert_eq!(store.now("u1"), [present(Value::Int32(3)), unknown(Status::NotFound)]);
        assert_eq!(store.then("u1", 94).await, store.now("u1"));
        assert_eq!(store.now("u2")[0], present(Value::Int32(2)));
        assert_eq!(store.engine().erasure(PROJECT, erased.sequence), Some(erased));
    }
}

/// Copies the manifest and these directories.
fn copy(from: &Path, to: &Path, directories: &[&str]) {
    std::fs::copy(from.join("MANIFEST"), to.join("MANIFEST")).unwrap();
    for name in directories {
        copy_all(&from.join(name), &to.join(name));
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &copy),
            false => drop(std::fs::copy(entry.path(), copy).unwrap()),
        }
    }
}

pub(super) async fn back_up(store: &Store, to: &Path) -> std::path::PathBuf {
    let begun = store.engine().begin_backup().await.unwrap();
    let taken = take(&RealDisk, &begun.pinned, to, store.clock.now(), &mut |_, _| {}).unwrap();
    assert!(store.engine().end_backup(begun.id));
    taken.path
}

/// Restores a backup and serves it.
pub(super) fn restored(from: &Path, clock: &ManualClock) -> (Store, restore::Outcome) {
    let directory = tempfile::tempdir().unwrap();
    let when = (clock.now(), Span::from_seconds(7 * DAY));
    let outcome = restore::run(&RealDisk, from, directory.path(), when, &mut |_, _| {}).unwrap();
    let engine = Some(open_with(busy(directory.path()), clock));
    (Store { directory, clock: clock.clone(), engine }, outcome)
}

#[tokio::test]
async fn whom_a_later_backup_knows_to_be_erased_is_not_restored() {
    for is_done in [false, true] {
        let store = store_with("tier = \"memory\"").await;
        let devices = "[entity.device]\njoin_keys = [\"id\"]\n\
                       [view.device]\nentity = \"device\"\nfeatures = { n = \"int32\" }\n";
        let devices = Definitions::parse_toml("test", devices).unwrap();
        store.engine().define(devices, DefineOptions::default()).await.unwrap();
        let registry = store.engine().registry();
        let of = |name| registry.entity_named(PROJECT, name).unwrap().id;
        let (user, device) = (of("user"), of("device"));
        // Of another entity type, with the same key.
        let mut batch = WriteBatch::new(&registry, store.engine().limits());
        batch.start(registry.view_named(PROJECT, "device").unwrap());
        batch.end(&user_key("secret-user"), None).unwrap();
        store.engine().write(PROJECT, batch, None).await.unwrap();
        for n in 0..200 {
            let user = ["secret-user", "u1", "u2"][n as usize % 3];
            let land = if n % 3 == 0 { country("hidden land") } else { country("AE") };
            store.push(&[(user, Some(50), age(n), land)]).await.unwrap();
        }
        let metrics = store.engine().metrics().clone();
        eventually("some of it is sealed", || metrics.sealed_files.get() > 0).await;
        let to = tempfile::tempdir().unwrap();
        let first = back_up(&store, to.path()).await;
        let alone = restored(&first, &store.clock);
        assert_eq!((alone.1.erased, alone.1.asked), (Vec::new(), Vec::new()));
        assert_eq!(alone.0.now("secret-user")[0], present(Value::Int32(198)));
        let erased = store.engine().erase(user, &user_key("secret-user")).await.unwrap();
        store.engine().erase(user, &user_key("nobody")).await.unwrap();
        if is_done {
            store.clock.advance(Span::from_seconds(4 * DAY));
            let done = || store.engine().erasure(PROJECT, erased.sequence).unwrap().done.is_some();
            eventually("it is done", done).await;
        }
        // What is written later is not in the backup.
        store.push(&[("secret-user", None, age(7), Cell::Absent)]).await.unwrap();
        let second = back_up(&store, to.path()).await;
        let (mut old, outcome) = restored(&first, &store.clock);
        assert_eq!((outcome.erased.len(), outcome.asked), (1, vec![second.clone()]), "{is_done}");
        for round in 0..2 {
            assert_eq!(old.now("secret-user"), nobody(), "{is_done} {round}");
            assert_eq!(old.then("secret-user", 60).await, nobody(), "{is_done} {round}");
            assert_eq!(old.now("u1")[0], present(Value::Int32(199)), "{is_done} {round}");
            let deadline = Deadline::after(Span::from_seconds(60));
            assert_eq!(old.engine().entity_count(device, deadline).await.unwrap(), 1);
            restart_from_history(&mut old);
        }
        let sequence = outcome.restored.sequence;
        let pending = old.engine().erasure(PROJECT, sequence).unwrap();
        assert_eq!((pending.done, pending.deadline), (None, outcome.deadline));
        assert!(lies_in(old.directory.path(), b"hidden land").is_some());
        store.clock.advance(Span::from_seconds(4 * DAY));
        let done = || old.engine().erasure(PROJECT, sequence).unwrap().done.is_some();
        eventually("it is done there too", done).await;
        assert_eq!(lies_in(old.directory.path(), b"hidden land"), None);
        check_whole(old);
        let (new, outcome) = restored(to.path(), &store.clock);
        assert_eq!((outcome.erased, outcome.restored.from), (Vec::new(), second));
        assert_eq!(new.now("secret-user")[0], present(Value::Int32(7)));
    }
}

#[tokio::test]
async fn the_rows_of_a_dropped_view_are_erased_too() {
    let store = store_with("tier = \"memory\"").await;
    let registry = store.engine().registry();
    let user = registry.entity_named(PROJECT, "user").unwrap().id;
    for n in 0..100 {
        store.push(&[("secret-user", Some(50), age(n), country("AE"))]).await.unwrap();
    }
    store.engine().drop_view(PROJECT, "profile", Data::Keep).await.unwrap();
    let erased = store.engine().erase(user, &user_key("secret-user")).await.unwrap();
    store.clock.advance(Span::from_seconds(4 * DAY));
    let done = || store.engine().erasure(PROJECT, erased.sequence).unwrap().done.is_some();
    eventually("it is done", done).await;
    assert_eq!(lies_in(store.directory.path(), b"secret-user"), None);
}
