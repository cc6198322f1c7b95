//! Views that are dropped with their rows: gone from every answer at once, from every file soon,
//! and nothing else with them.
//!
//! They do not look inside files, but for bytes that must not be there.

use super::bounds::{back_up, check_whole, eventually, lies_in, online, restart_from_history};
use super::bounds::{restored, store_with};
use super::*;
use crate::disk::fake::Fate;
use crate::engine::define::Defined;
use crate::engine::forget::discard_staged;
use crate::history::as_of::RowAt;
use crate::history::bulk::{Part, Tally};
use crate::history::pace::Pace;
use crate::ids::Slot;
use crate::registry::changes::Absent;

/// What only rows of the view that goes say.
const HIDDEN: &str = "hidden land";
/// What only rows of the view that stays say.
const OPEN: &str = "open land";
const STAYS: &str = "[view.other]\nentity = \"user\"\nfeatures = { land = \"string\" }\n";

/// Each of these users has rows in both views.
const USERS: [&str; 3] = ["u0", "u1", "u2"];

/// A store with a view that goes, which says this of itself, and one that stays; with rows in
/// sealed files and the log.
async fn filled(view: &str) -> Store {
    let store = store_with(view).await;
    let stays = Definitions::parse_toml("test", STAYS).unwrap();
    store.engine().define(stays, DefineOptions::default()).await.unwrap();
    for n in 0..200 {
        let user = USERS[n as usize % 3];
        store.push(&[(user, Some(50), age(n), country(HIDDEN))]).await.unwrap();
        push_other(&store, user).await;
    }
    let metrics = store.engine().metrics().clone();
    eventually("some of it is sealed", || metrics.sealed_files.get() > 1).await;
    store
}

async fn push_other(store: &Store, user: &str) {
    let registry = store.engine().registry();
    let mut batch = WriteBatch::new(&registry, store.engine().limits());
    batch.start(registry.view_named(PROJECT, "other").unwrap());
    batch.set(Slot(0), country(OPEN).borrowed());
    batch.end(&user_key(user), None).unwrap();
    store.engine().write(PROJECT, batch, None).await.unwrap();
}

/// The land that the other view says, now and as of a later instant.
async fn lands(store: &Store, user: &str) -> [Option<Value>; 2] {
    let mut found = [None, None];
    for (purpose, found) in [Purpose::Online, Purpose::AsOf].into_iter().zip(&mut found) {
        let what = What::Features(vec!["other:land"]);
        let plan = Ask { entity_type: Some("user"), what, purpose };
        let plan = store.engine().plan(PROJECT, &plan).unwrap();
        let mut batch = Batch::new(1);
        batch.push_row(&[&user_key(user)]);
        let mut take = |answer: Option<Value>| *found = answer;
        match purpose {
            Purpose::Online => {
                let now = store.engine().now();
                plan.answer(&batch, 0..1, &ColdStates::none(), now, |_, _, answer| {
                    take(answer.value.map(|value| value.to_owned()));
                });
            }
            Purpose::AsOf => {
                let times = vec![store.engine().now()];
                let ask = AsOf { plan, batch, times, known_at: None, allow_truncated: false };
                let deadline = Deadline::after(Span::from_seconds(60));
                let answers = store.engine().as_of(ask, deadline).await.unwrap();
                answers.answer(0..1, |_, _, answer| {
                    take(answer.value.map(|value| value.to_owned()));
                });
            }
        }
    }
    found
}

/// The view that stays has all it had, the one that goes is not there.
async fn check_gone(store: &Store, when: &str) {
    let registry = store.engine().registry();
    assert!(registry.view_named(PROJECT, "profile").is_err(), "{when}");
    let open = Some(Value::String(OPEN.into()));
    for user in USERS {
        assert_eq!(lands(store, user).await, [open.clone(), open.clone()], "{when} {user}");
    }
    let entity = registry.entity_named(PROJECT, "user").unwrap().id;
    let deadline = Deadline::after(Span::from_seconds(60));
    let count = store.engine().entity_count(entity, deadline).await.unwrap();
    assert_eq!(count, USERS.len() as u64, "{when}");
}

async fn drop_with_rows(store: &Store) -> Defined {
    store.engine().drop_view(PROJECT, "profile", Data::Drop).await.unwrap()
}

fn is_done(store: &Store, erasure: Sequence) -> bool {
    store.engine().erasure(PROJECT, erasure).unwrap().done.is_some()
}

#[tokio::test]
async fn a_view_dropped_with_its_rows_is_gone_at_once_and_its_bytes_soon() {
    for tier in ["memory", "disk"] {
        let mut store = filled(&format!("tier = \"{tier}\"")).await;
        let data = store.directory.path().to_owned();
        if tier == "disk" {
            let tier = data.join("disk");
            eventually("rows move to the tier", || lies_in(&tier, HIDDEN.as_bytes()).is_some())
                .await;
        }
        assert_eq!(online(&store, tier, "u1").await[0], present(Value::Int32(199)));
        let view = store.engine().registry().view_named(PROJECT, "profile").unwrap().id;
        let history = store.engine().shared.history.clone();
        let running = history.as_of(Sequence::MAX, None).unwrap();
        let shown = |user: &str| {
            let mut shown = 0;
            let mut see = |_: RowAt<'_>| {
                shown += 1;
                std::ops::ControlFlow::Continue(())
            };
            running.rows_before(view, &user_key(user), EventTime::MAX, &mut see).unwrap();
            shown
        };
        assert!(shown("u1") > 60);
        let dropped = drop_with_rows(&store).await;
        assert_eq!(dropped.changes, ["- view profile with its rows"]);
        let [erasure] = dropped.erasures[..] else { panic!("{dropped:?}") };
        assert_eq!(shown("u1"), 0, "nor does a read that runs");
        check_gone(&store, "at once").await;
        let state = store.engine().erasure(PROJECT, erasure).unwrap();
        assert_eq!((state.sequence, erasure.next()), (erasure, dropped.sequence));
        assert_eq!(state.deadline.since(state.requested), Span::from_seconds(7 * 86_400));
        // Somebody reads files that are removed.
        assert_eq!(state.done, None);
        drop(running);
        eventually("it is done", || is_done(&store, erasure)).await;
        assert_eq!(lies_in(&data, HIDDEN.as_bytes()), None, "{tier}");
        assert!(lies_in(&data, OPEN.as_bytes()).is_some());
        assert_eq!(store.engine().metrics().erasures_pending.get(), 0);
        check_gone(&store, "once done").await;
        restart_from_history(&mut store);
        check_gone(&store, "done, from history alone").await;
        assert!(is_done(&store, erasure));
        let again = DEFINITIONS.replace("ttl = \"10s\"", &format!("tier = \"{tier}\""));
        let again = Definitions::parse_toml("test", &again).unwrap();
        store.engine().define(again, DefineOptions::default()).await.unwrap();
        let nobody = [(Status::NotFound, None), unknown(Status::NotFound)];
        assert_eq!(online(&store, tier, "u1").await, nobody, "{tier}");
        assert_eq!(store.then("u1", 1000).await, nobody, "{tier}");
        store.push(&[("u1", Some(50), age(7), Cell::Absent)]).await.unwrap();
        restart_from_history(&mut store);
        assert_eq!(online(&store, tier, "u1").await[0], present(Value::Int32(7)), "{tier}");
        assert_eq!(store.then("u1", 1000).await[0], present(Value::Int32(7)), "{tier}");
        check_whole(store);
    }
}

#[tokio::test]
async fn rows_that_are_kept_stay_when_their_view_is_dropped() {
    let store = filled("tier = \"memory\"").await;
    let dropped = store.engine().drop_view(PROJECT, "profile", Data::Keep).await.unwrap();
    assert_eq!((dropped.changes, dropped.erasures), (vec!["- view profile".into()], vec![]));
    check_gone(&store, "kept").await;
    store.engine().drop_view(PROJECT, "other", Data::Drop).await.unwrap();
    let data = store.directory.path();
    eventually("the other's go", || lies_in(data, OPEN.as_bytes()).is_none()).await;
    assert!(lies_in(&data.join("history"), HIDDEN.as_bytes()).is_some());
}

#[tokio::test]
async fn a_drop_is_whole_or_not_there_whenever_the_power_goes() {
    let disk = FakeDisk::new();
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(at(100));
    let open_on = |disk: &FakeDisk| {
        // Checkpoints are not on that disk.
        let _ = std::fs::remove_dir_all(directory.path().join("checkpoint"));
        let options = options(directory.path(), Durability::Os);
        let metrics = Metrics::new(clock.now());
        open(options, Arc::new(disk.clone()), Arc::new(clock.clone()), metrics).unwrap()
    };
    let engine = open_on(&disk);
    let store = Store {
        directory: tempfile::tempdir().unwrap(),
        clock: clock.clone(),
        engine: Some(engine),
    };
    let both = format!("{DEFINITIONS}{STAYS}");
    let both = Definitions::parse_toml("test", &both).unwrap();
    store.engine().define(both, DefineOptions::default()).await.unwrap();
    store.push(&[("u1", Some(99), age(9), country(HIDDEN))]).await.unwrap();
    push_other(&store, "u1").await;
    // Makes what is written durable, as in this mode nothing else does.
    let user = store.engine().registry().entity_named(PROJECT, "user").unwrap().id;
    store.engine().erase(user, &user_key("nobody")).await.unwrap();
    disk.watch();
    let dropped = drop_with_rows(&store).await;
    let moments = disk.take_moments();
    let (mut whole, mut gone) = (0, 0);
    for (index, moment) in moments.iter().enumerate() {
        let is_last = index + 1 == moments.len();
        for state in [moment.crash(), moment.crash_by(|_| Fate::Kept)] {
            let engine = Some(open_on(&state));
            let again =
                Store { directory: tempfile::tempdir().unwrap(), clock: clock.clone(), engine };
            let erasure = again.engine().erasure(PROJECT, dropped.erasures[0]);
            match again.engine().registry().view_named(PROJECT, "profile").is_ok() {
                true => {
                    assert!(erasure.is_none() && !is_last);
                    whole += 1;
                }
                false => {
                    assert_eq!(erasure.unwrap().done, None);
                    check_gone_from(&again, "u1").await;
                    // The sequence of the definitions is what the drop was answered with.
                    let if_match = Some(dropped.sequence);
                    let nothing = Definitions::parse_toml("test", "").unwrap();
                    let same = DefineOptions { if_match, dry_run: true, ..Default::default() };
                    again.engine().define(nothing, same).await.unwrap();
                    gone += 1;
                }
            }
        }
    }
    assert!(whole > 0 && gone > 0, "{whole} {gone}");
}

/// Nothing of the dropped view is in reads of history, by whatever id.
async fn check_gone_from(store: &Store, user: &str) {
    let history = store.engine().shared.history.as_of(Sequence::MAX, None).unwrap();
    let mut shown = 0;
    let mut see = |_: RowAt<'_>| {
        shown += 1;
        std::ops::ControlFlow::Continue(())
    };
    let views = store.engine().registry().next_ids().view.0;
    for view in (0..views).map(ViewId) {
        history.rows_before(view, &user_key(user), EventTime::MAX, &mut see).unwrap();
    }
    assert_eq!(shown, 1, "the other's");
}

struct Unhurried;

impl Pace for Unhurried {
    fn worked(&mut self, _: u64) -> bool {
        true
    }
}

/// Leaves a row of the view that goes as a load leaves it that the end of the server interrupted.
fn stage(store: &Store, said: &str) {
    let view = store.engine().registry().view_named(PROJECT, "profile").unwrap().clone();
    let mut encoder = crate::archive::Encoder::default();
    encoder.start(view.layout());
    encoder.set(view.layout(), view.slot_of("country").unwrap(), country(said).borrowed());
    let mut archive = Vec::new();
    encoder.finish_row(&mut archive);
    let mut part = Part::new(view.id);
    part.push(&user_key("u9"), (at(50).as_event_time(), None), |out| {
        out.extend_from_slice(&archive);
    });
    let mut staging = store.engine().sealer.stage(&[7; 32], &mut Unhurried).unwrap();
    staging.add(&mut part, Tally::default(), &mut Unhurried).unwrap();
}

#[tokio::test]
async fn what_may_be_history_is_not_taken_for_what_a_load_left() {
    let store = filled("tier = \"memory\"").await;
    stage(&store, "staged land");
    let turn = store.engine().begin_load().unwrap();
    drop_with_rows(&store).await;
    // As where the manifest that names a load was put in place, and that could not be made durable.
    store.engine().metrics().set_writes(WritesState::Stopped);
    drop(turn);
    let (shared, sealer) = (&store.engine().shared, &store.engine().sealer);
    assert!(!discard_staged(shared, sealer).unwrap());
    assert!(lies_in(store.directory.path(), b"staged land").is_some());
}

#[tokio::test]
async fn what_a_load_left_for_the_view_goes_too() {
    let store = filled("tier = \"memory\"").await;
    let data = store.directory.path();
    stage(&store, "staged land");
    assert!(lies_in(data, b"staged land").is_some());
    // One that runs may leave more.
    let turn = store.engine().begin_load().unwrap();
    let metrics = store.engine().metrics();
    let before = metrics.checkpoints.get();
    let dropped = drop_with_rows(&store).await;
    let all_else = || {
        let log_begins = store.engine().shared.history.log_begins();
        log_begins > dropped.sequence
            && metrics.checkpoints.get() >= before + 2
            && lies_in(data, HIDDEN.as_bytes()).is_none()
    };
    eventually("the rows go, but for what was loaded", all_else).await;
    // Time for whoever would say that it is done.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!is_done(&store, dropped.erasures[0]));
    let shared = &store.engine().shared;
    assert!(shared.erasures().pending().all(|(_, one)| !one.may_lie_on_disk));
    assert!(lies_in(data, b"staged land").is_some());
    drop(turn);
    eventually("it is done", || is_done(&store, dropped.erasures[0])).await;
    assert_eq!(lies_in(data, b"staged land"), None);
    assert!(!data.join("history/LOAD").exists());
}

#[tokio::test]
async fn a_backup_from_before_still_has_the_view() {
    let store = filled("tier = \"memory\"").await;
    let to = tempfile::tempdir().unwrap();
    let before = back_up(&store, to.path()).await;
    let dropped = drop_with_rows(&store).await;
    let pending = back_up(&store, to.path()).await;
    eventually("it is done", || is_done(&store, dropped.erasures[0])).await;
    let done = back_up(&store, to.path()).await;
    let (old, outcome) = restored(&before, &store.clock);
    assert_eq!((outcome.erased.len(), outcome.asked.len()), (0, 1));
    assert_eq!(old.now("u1")[0], present(Value::Int32(199)));
    let (after, outcome) = restored(&pending, &store.clock);
    assert_eq!(outcome.erased, []);
    check_gone(&after, "restored while it was pending").await;
    eventually("it is done there", || is_done(&after, dropped.erasures[0])).await;
    assert_eq!(lies_in(after.directory.path(), HIDDEN.as_bytes()), None);
    let (after, _) = restored(&done, &store.clock);
    check_gone(&after, "restored once it was done").await;
    assert!(is_done(&after, dropped.erasures[0]));
}

#[tokio::test]
async fn pruning_erases_the_rows_of_each_project_for_itself() {
    let mut store = Store::new();
    store.engine.take().unwrap().close();
    let limits = Limits { pending_erasures: 1, ..Limits::default() };
    let options = Options { limits, ..busy(store.directory.path()) };
    store.engine = Some(open_with(options, &store.clock));
    let of = |project: &str, more: &str| {
        let text = format!("[entity.user]\njoin_keys = [\"id\"]\n{more}");
        Definitions::parse_toml_for(project, "test", &text).unwrap()
    };
    let view = "[view.v]\nentity = \"user\"\nfeatures = { land = \"string\" }\n";
    let plain = DefineOptions::default();
    for project in ["default", "second"] {
        store.engine().define(of(project, view), plain).await.unwrap();
    }
    let prune = DefineOptions { absent: Absent::Drop, data: Data::Drop, ..plain };
    let planned = DefineOptions { dry_run: true, ..prune };
    let planned = store.engine().define(of("default", ""), planned).await.unwrap();
    assert_eq!(planned.changes, ["- view v with its rows"]);
    assert_eq!(planned.erasures, []);
    // While a load runs none is done.
    let turn = store.engine().begin_load().unwrap();
    let defined = store.engine().define(of("default", ""), prune).await.unwrap();
    let [erasure] = defined.erasures[..] else { panic!("{defined:?}") };
    let second = store.engine().registry().project("second").unwrap();
    assert!(store.engine().erasure(PROJECT, erasure).is_some());
    assert!(store.engine().erasure(second, erasure).is_none());
    let refused = store.engine().define(of("second", ""), prune).await.unwrap_err();
    assert_eq!(refused.code, Code::Overloaded);
    assert!(store.engine().registry().view_named(second, "v").is_ok());
    drop(turn);
    eventually("it is done", || is_done(&store, erasure)).await;
    let other = store.engine().define(of("second", ""), prune).await.unwrap();
    assert!(store.engine().erasure(second, other.erasures[0]).is_some());
    // Nothing is dropped, so nothing is erased.
    let same = store.engine().define(of("second", ""), prune).await.unwrap();
    assert_eq!((same.changes.len(), same.erasures.len()), (0, 0));
}
