//! Loads that break off, at any step, and are brought to an end: by a start, or by being given
//! again.
//!
//! They do not know what a whole load answers; `load` does.

use super::*;

#[tokio::test]
async fn no_checkpoint_covers_a_load_that_is_not_online() {
    let mut store = defined("ttl = \"1d\"").await;
    store.push(&[("u1", Some(50), age(9), Cell::Absent)]).await.unwrap();
    let shared = &store.engine().shared;
    let before = shared.visible();
    // As the writer says it before it makes a load visible.
    let files = Vec::new();
    let identity = [0; 32];
    let view = ViewId(1_000);
    shared.hold(Arc::new(Committed {
        view,
        identity,
        rows: 1,
        first: before,
        last: before,
        files,
    }));
    let covered = Sequence(before.0 - 1);
    assert_eq!(shared.online_upto(), covered);
    let loaded = store.load(&rows(&[("u1", 95, 1), ("u2", 95, 2), ("u1", 96, 3)])).await.unwrap();
    let shared = &store.engine().shared;
    assert_eq!((shared.visible(), shared.online_upto()), (loaded.sequence, covered));
    store.restart(false);
    assert_eq!(store.engine().metrics().recovery_history_rows.get(), 4, "they are replayed");
    assert_eq!([store.age_now("u1"), store.age_now("u2")], [is(3), is(2)]);
    store.restart(false);
    assert_eq!(store.engine().metrics().recovery_history_rows.get(), 0, "a checkpoint has them");
    let shared = &store.engine().shared;
    assert_eq!(shared.online_upto(), shared.visible());
}

#[tokio::test]
async fn what_is_not_online_of_a_view_that_is_dropped_holds_no_checkpoint_up() {
    let store = defined("ttl = \"1d\"").await;
    store.push(&[("u1", Some(50), age(9), Cell::Absent)]).await.unwrap();
    let shared = &store.engine().shared;
    let (last, files) = (shared.visible(), Vec::new());
    let view = store.engine().registry().view_named(PROJECT, "profile").unwrap().id;
    let identity = [0; 32];
    shared.hold(Arc::new(Committed { view, identity, rows: 1, first: last, last, files }));
    assert!(shared.online_upto() < shared.visible());
    store.engine().drop_view(PROJECT, "profile", Data::Keep).await.unwrap();
    assert_eq!(shared.online_upto(), shared.visible());
}

#[tokio::test]
async fn a_load_that_is_not_all_online_is_brought_there_when_it_is_given_again() {
    let file = rows(&[("u1", 95, 1), ("u2", 95, 2), ("u1", 96, 3)]);
    let mut half_done = 0;
    for nth in 1..40 {
        let disk = FakeDisk::new();
        let store = defined_on(&disk).await;
        let before = store.engine().shared.visible();
        let (operation, error) = (Some(Operation::Read), DiskErrorKind::Io);
        disk.fail(Fault { operation, nth, lasting: false, error });
        let failed = store.load(&file).await;
        disk.heal();
        let shared = &store.engine().shared;
        let Some(problem) = failed.err().filter(|_| shared.visible() > before) else { continue };
        half_done += 1;
        assert!(problem.detail.contains("load it again"), "{}", problem.detail);
        assert_eq!((store.age_now("u1"), store.age_then("u1", 99).await), (None, is(3)));
        assert_eq!(shared.online_upto(), before);
        // Another load neither helps nor is held up.
        store.load(&rows(&[("u3", 95, 4)])).await.unwrap();
        assert_eq!(shared.online_upto(), before);
        let again = store.load(&file).await.unwrap();
        assert_eq!((again.written, again.loaded_before), (0, Some(at(100))));
        assert_eq!(["u1", "u2", "u3"].map(|user| store.age_now(user)), [is(3), is(2), is(4)]);
        assert_eq!(shared.online_upto(), shared.visible());
    }
    assert!(half_done > 0);
}

#[tokio::test]
async fn a_load_that_is_cut_off_anywhere_is_whole_or_not_there_and_can_be_given_again() {
    let disk = FakeDisk::new();
    let store = defined_on(&disk).await;
    store.push(&[("u1", Some(97), age(97), Cell::Absent)]).await.unwrap();
    let before = store.engine().health().sequence.0;
    let file = rows(&[("u1", 95, 1), ("u2", 95, 2), ("u2", 90, 3)]);
    disk.watch();
    store.load(&file).await.unwrap();
    let moments = disk.take_moments();
    let (mut whole, mut gone) = (0, 0);
    for moment in &moments {
        for state in [moment.crash(), moment.crash_by(|_| Fate::Kept)] {
            let directory = tempfile::tempdir().unwrap();
            let engine = open_on(&state, store.directory.path(), &store.clock);
            let again = Store { directory, clock: store.clock.clone(), engine: Some(engine) };
            let last = again.engine().health().sequence.0;
            let is_there = last == before + 3;
            assert!(is_there || last == before, "{before}: {last}");
            let second = if is_there { is(2) } else { None };
            assert_eq!([again.age_now("u1"), again.age_now("u2")], [is(97), second.clone()]);
            assert_eq!(again.age_then("u2", 99).await, second);
            let loaded = again.load(&file).await.unwrap();
            assert_eq!(loaded.loaded_before.is_some(), is_there);
            assert_eq!(again.engine().health().sequence.0, before + 3, "nothing twice");
            assert_eq!([again.age_now("u1"), again.age_now("u2")], [is(97), is(2)]);
            assert_eq!(again.age_then("u2", 94).await, is(3));
            *(if is_there { &mut whole } else { &mut gone }) += 1;
        }
    }
    assert!(whole > 0 && gone > 10, "{whole} {gone}");
}

#[tokio::test]
async fn a_start_removes_the_ledger_of_a_load_that_is_history() {
    let mut left = 0;
    for nth in 1..10 {
        let disk = FakeDisk::new();
        let mut store = defined_on(&disk).await;
        let (operation, error) = (Some(Operation::Remove), DiskErrorKind::Io);
        disk.fail(Fault { operation, nth, lasting: false, error });
        let loaded = store.load(&rows(&[("u1", 95, 1)])).await;
        disk.heal();
        let ledger = store.directory.path().join("history/LOAD");
        let has_ledger = || disk.open_read(&ledger).is_ok();
        if loaded.is_err() || !has_ledger() {
            continue;
        }
        left += 1;
        store.engine.take().unwrap().close();
        store.engine = Some(open_on(&disk, store.directory.path(), &store.clock));
        assert!(!has_ledger());
        assert_eq!(store.age_now("u1"), is(1));
    }
    assert!(left > 0, "its removal never failed");
}

#[tokio::test]
async fn a_full_disk_refuses_a_load_and_nothing_else() {
    let disk = FakeDisk::new();
    let store = defined_on(&disk).await;
    let file = rows(&[("u1", 95, 1)]);
    let (error, lasting) = (DiskErrorKind::Full, false);
    disk.fail(Fault { operation: Some(Operation::Write), nth: 1, lasting, error });
    let full = store.load(&file).await.unwrap_err();
    assert_eq!(full.code, Code::DiskFull);
    assert!(full.detail.contains("nothing of the file was loaded"), "{}", full.detail);
    assert_eq!(store.engine().health().writes, WritesState::Open);
    store.push(&[("u2", Some(90), age(1), Cell::Absent)]).await.unwrap();
    disk.say_free(100 << 20);
    let full = store.load(&file).await.unwrap_err();
    assert_eq!(full.code, Code::DiskFull);
    assert!(full.detail.contains("of them for the log"), "{}", full.detail);
    disk.heal();
    disk.say_free(u64::MAX);
    store.load(&file).await.unwrap();
    assert_eq!(store.age_now("u1"), is(1));
}

#[tokio::test]
async fn a_load_stops_with_the_server_and_goes_on_when_it_is_given_again() {
    let mut store = defined("ttl = \"1d\"").await;
    let file = rows(&[("u1", 95, 1), ("u2", 95, 2)]);
    store.engine().drain();
    let stopped = store.load(&file).await.unwrap_err();
    assert_eq!(stopped.code, Code::Draining);
    let begun = [store.engine().begin_training(), store.engine().wait_for_training().await];
    for refused in begun {
        assert_eq!(refused.err().map(|problem| problem.code), Some(Code::Draining));
    }
    store.restart(false);
    assert_eq!(store.age_now("u1"), None);
    store.load(&file).await.unwrap();
    assert_eq!(store.age_now("u1"), is(1));
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(std::fs::copy(&path, &to).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_start_that_breaks_off_while_it_replays_a_load_leaves_the_disk_tier_no_gap() {
    let mut store = defined("ttl = \"1d\"\ntier = \"disk\"").await;
    store.push(&[("u1", Some(50), age(9), Cell::Absent)]).await.unwrap();
    store.restart(false);
    store.engine.take().unwrap().close();
    let path = store.directory.path().to_owned();
    let before = tempfile::tempdir().unwrap();
    let derived = ["checkpoint", "disk"];
    derived.iter().for_each(|name| copy(&path.join(name), &before.path().join(name)));
    let roomy = options(&path, Durability::Sync);
    store.engine = Some(open_with(roomy, &store.clock));
    // By key, the last rows come first.
    let users: Vec<String> = (0..12_000).map(|n| format!("v{:05}", 11_999 - n)).collect();
    let loaded: Vec<_> = users.iter().map(|user| (user.as_str(), 95, 7)).collect();
    store.load(&rows(&loaded)).await.unwrap();
    store.engine.take().unwrap().close();
    // As if the power had gone before any of it was online.
    derived.iter().for_each(|name| copy(&before.path().join(name), &path.join(name)));
    let files = std::fs::read_dir(path.join("history")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "sealed"));
    // That of the load; the log's is small.
    let sealed = files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let good = std::fs::read(&sealed).unwrap();
    let mut bad = good.clone();
    // Far on among the rows.
    bad[good.len() / 4 * 3] ^= 1;
    std::fs::write(&sealed, &bad).unwrap();
    // Room for some 7000 rows: more than are moved at once, and less than come before the damage.
    let full = || Options {
        tier_limits: TierLimits { overlay: 1_100_000, cache: 0 },
        ..options(&path, Durability::Sync)
    };
    let mark = || std::fs::read(path.join("disk/mark")).unwrap();
    let marked = mark();
    let disk = Arc::new(RealDisk);
    let metrics = Metrics::new(store.clock.now());
    let broken = open(full(), disk, Arc::new(store.clock.clone()), metrics);
    let broken = broken.err().unwrap().to_string();
    assert!(broken.starts_with(&format!("{} is damaged", sealed.display())), "{broken}");
    assert_ne!(mark(), marked, "some rows were moved before");
    std::fs::write(&sealed, &good).unwrap();
    store.engine = Some(open_with(full(), &store.clock));
    for user in users.iter().step_by(7) {
        let (answer, fallback) = store.now_on_disk(user).await;
        assert_eq!((answer[0].1.clone(), fallback), (is(7), None), "{user}");
    }
    let replayed = store.engine().metrics().recovery_history_rows.get();
    assert_eq!(replayed, users.len() as u64, "nobody knows which were moved");
}
