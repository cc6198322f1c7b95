//! Sealing beside writes and checkpoints.
//!
//! They do not look inside files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use super::bounds::eventually;
use super::*;
use crate::engine::seal::{Budget, KeptCheckpoints, ManifestChange, Sealing, Work};
use crate::engine::stop::Stop;
use crate::priority::Manner;
use crate::time::Stopwatch;

#[tokio::test]
async fn a_store_that_nobody_writes_to_keeps_no_sealed_segment() {
    let mut store = Store::new();
    store.engine.take().unwrap().close();
    // The rows come between two checkpoints.
    let checkpoint_interval = Span::from_micros(500_000);
    let options = Options { checkpoint_interval, ..busy(store.directory.path()) };
    store.engine = Some(open_with(options, &store.clock));
    let definitions = Definitions::parse_toml("test", DEFINITIONS).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    for n in 0..500 {
        store.push(&[("u1", Some(90), age(n), country("AE"))]).await.unwrap();
    }
    let metrics = store.engine().metrics().clone();
    eventually("it is sealed", || metrics.seals.get() > 3).await;
    eventually("the log goes", || metrics.log_segments.get() == 1).await;
    store.engine.take().unwrap().close();
}

#[tokio::test]
async fn sealing_goes_on_after_a_panic_while_a_file_was_put_in_place() {
    let mut store = Store::new();
    store.engine.take().unwrap().close();
    let busy = busy(store.directory.path());
    // The engine's own threads look once, while there is nothing.
    let seal = SealOptions { interval: Span::from_seconds(3600), ..busy.seal };
    store.engine = Some(open_with(Options { seal, ..busy }, &store.clock));
    let definitions = Definitions::parse_toml("test", DEFINITIONS).unwrap();
    store.engine().define(definitions, DefineOptions::default()).await.unwrap();
    for n in 0..300 {
        store.push(&[("u1", Some(90), age(n), country("AE"))]).await.unwrap();
    }
    let engine = store.engine();
    let (metrics, history) = (engine.metrics().clone(), engine.shared.history.clone());
    assert_eq!(history.sealed().len(), 0);
    let sealing = Sealing {
        shared: engine.shared.clone(),
        queue: engine.queue.clone(),
        sealer: engine.sealer.clone(),
        kept: Arc::new(KeptCheckpoints::new(Sequence::ZERO)),
        options: SealOptions { interval: Span::from_micros(5_000), ..seal },
        since: Stopwatch::start(),
        manner: Manner::normal(),
        installing: Mutex::default(),
    };
    let stop = Arc::<Stop>::default();
    let stopped = stop.clone();
    let work = tokio::task::spawn_blocking(move || {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _installing = sealing.installing.lock().unwrap();
            let task = sealing.sealer.next_to_seal().unwrap();
            let made = sealing.sealer.make(&task, &mut Budget::new(u64::MAX, &stopped)).unwrap();
            sealing.change(ManifestChange::NameSealed(made.file.entry(), Vec::new())).unwrap();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        sealing.run(Work::Seal, &stopped);
    });
    eventually("sealing goes on", || metrics.seals.get() > 1).await;
    stop.tell();
    work.await.unwrap();
    let sealed = history.sealed();
    let follow = sealed.is_sorted_by(|a, b| a.entry().last.next() == b.entry().first);
    assert!(follow && sealed.len() as u64 == metrics.seals.get() + 1, "{}", sealed.len());
}
