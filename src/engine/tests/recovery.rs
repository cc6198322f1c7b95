//! What a start rebuilds from history, whatever became of the copies of it.
//!
//! They do not know how a copy is laid out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

#[tokio::test]
async fn history_rebuilds_what_an_unfinished_checkpoint_would_have_held() {
    let mut store = Store::defined().await;
    store.push(&[("u1", Some(95), age(30), country("AE"))]).await.unwrap();
    store.engine.take().unwrap().close();
    let mut unfinished = 0;
    for entry in std::fs::read_dir(store.directory.path().join("checkpoint")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "done") {
            std::fs::remove_file(path).unwrap();
            unfinished += 1;
        }
    }
    assert!(unfinished > 0);
    store.engine = Some(open_at(store.directory.path(), &store.clock, Durability::Sync));
    let expected = [present(Value::Int32(30)), present(Value::String("AE".into()))];
    assert_eq!(store.now("u1"), expected);
}

#[tokio::test]
async fn sealed_history_alone_rebuilds_what_is_lost() {
    for tier in ["memory", "disk"] {
        let mut store = Store::new();
        store.engine.take().unwrap().close();
        let options = || Options {
            segment_bytes: 4096,
            checkpoint_interval: Span::from_micros(20_000),
            seal: SealOptions { interval: Span::from_micros(5_000), ..SealOptions::default() },
            ..options(store.directory.path(), Durability::Sync)
        };
        let mut engine = open_with(options(), &store.clock);
        let definitions =
            DEFINITIONS.replace("ttl = \"10s\"", &format!("ttl = \"10s\"\ntier = \"{tier}\""));
        let definitions = Definitions::parse_toml("test", &definitions).unwrap();
        engine.define(definitions, DefineOptions::default()).await.unwrap();
        let mut first = None;
        for life in 0..3 {
            store.engine = Some(engine);
            let rows = [("u0", Some(95), age(0), country("AE"))];
            let answer = store.push_keyed(&rows, Some("k")).await.unwrap();
            let before = *first.get_or_insert(answer.sequence);
            assert_eq!(answer.sequence, before, "{tier} life {life}: the key was forgotten");
            let (metrics, waited) =
                (store.engine().metrics().clone(), crate::time::Stopwatch::start());
            let seals = metrics.seals.get();
            // The segments of the log go when two checkpoints cover them.
            while metrics.seals.get() < seals + 10 || metrics.log_segments.get() > 8 {
                for n in 1..20 {
                    let user = format!("u{n}");
                    store.push(&[(&user, Some(95), age(n), country("AE"))]).await.unwrap();
                    store.push(&[(&user, Some(94), age(-1), Cell::Null)]).await.unwrap();
                }
                // On a busy machine the log would else grow faster than it goes.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                assert!(waited.elapsed().as_secs() < 240, "{tier} life {life}: nothing goes");
            }
            store.engine.take().unwrap().close();
            for derived in ["checkpoint", "disk"] {
                let _ = std::fs::remove_dir_all(store.directory.path().join(derived));
            }
            engine = open_with(options(), &store.clock);
            store.engine = Some(engine.clone());
            for n in 0..20 {
                let expected = [present(Value::Int32(n)), present(Value::String("AE".into()))];
                let user = format!("u{n}");
                let waited = crate::time::Stopwatch::start();
                loop {
                    // History answers until the tier is rebuilt from it.
                    let (answers, fallback) = match tier {
                        "disk" => store.now_on_disk(&user).await,
                        _ => (store.now(&user), None),
                    };
                    assert_eq!(answers, expected, "{tier} life {life} {user}");
                    if fallback.is_none() {
                        break;
                    }
                    assert!(waited.elapsed().as_secs() < 60, "the tier was never rebuilt");
                }
                assert_eq!(
                    store.then(&user, 94).await[0].0,
                    match n {
                        0 => Status::NotFound,
                        _ => Status::Present,
                    }
                );
            }
            store.engine = None;
        }
        engine.close();
    }
}

/// The files under a directory, by their paths in it.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_under(root: &Path) -> Files {
    let mut files = Files::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_owned();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

/// The splitmix64 generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// What may be found of checkpoints after crashes and damage: of each file nothing, or what it was
/// at some moment, or what one of its name was in another generation, whole, cut, flipped or with
/// zeros.
fn mixed(moments: &[Files], random: &mut Random) -> Files {
    let names: Vec<&PathBuf> = moments.iter().flat_map(BTreeMap::keys).collect();
    // Mostly whole, or no generation ever would be.
    let odd = 2 + random.below(20);
    let mut files = Files::new();
    for name in &names {
        let same = |other: &&&PathBuf| match random.below(odd) {
            0 => other.file_name() == name.file_name(),
            _ => *other == name,
        };
        let of = *names.iter().find(same).unwrap_or(name);
        let moment = &moments[random.below(moments.len())];
        let Some(mut bytes) = moment.get(of).cloned() else { continue };
        let at = random.below(bytes.len().max(1));
        let is_of_sled = name.extension().is_none_or(|extension| extension != "done");
        match random.below(odd * 4) {
            0 => continue,
            1 => bytes.truncate(at),
            // Of a flipped bit sled mostly makes a start that hangs until it is given up, which
            // `checkpoint` tests.
            2 if !is_of_sled => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
        files.insert((*name).clone(), bytes);
    }
    files
}

fn replace_files(root: &Path, files: &Files) {
    std::fs::remove_dir_all(root).unwrap();
    for (name, bytes) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[tokio::test]
async fn whatever_is_found_of_checkpoints_a_start_answers_as_history() {
    const USERS: i32 = 150;
    const ROUNDS: i32 = 20;
    let mut store = Store::defined().await;
    let checkpoints = store.directory.path().join("checkpoint");
    let options = |store: &Store| Options {
        checkpoint_interval: Span::from_seconds(3600),
        ..busy(store.directory.path())
    };
    let (mut random, mut moments) = (Random(7), Vec::new());
    let mut loaded = 0;
    for round in 0..ROUNDS {
        store.engine.take().unwrap().close();
        if round < 5 {
            moments.push(files_under(&checkpoints));
        } else if random.below(4) > 0 {
            replace_files(&checkpoints, &mixed(&moments, &mut random));
        }
        store.engine = Some(open_with(options(&store), &store.clock));
        loaded += i32::from(store.engine().metrics().recovery_checkpoint_rows.get() > 0);
        for n in 0..USERS {
            let expected = match round {
                0 => [(Status::NotFound, None), unknown(Status::NotFound)],
                _ => [present(Value::Int32(n + round)), present(Value::String("AE".into()))],
            };
            assert_eq!(store.now(&format!("u{n}")), expected, "round {round} user {n}");
        }
        let users: Vec<String> = (0..USERS).map(|n| format!("u{n}")).collect();
        let row = |(n, user)| (user, Some(95), age(n + round + 1), country("AE"));
        let rows: Vec<_> = (0..).zip(users.iter().map(String::as_str)).map(row).collect();
        store.push(&rows).await.unwrap();
    }
    assert!((ROUNDS / 4..ROUNDS - 5).contains(&loaded), "{loaded} of {ROUNDS} were loaded");
}
