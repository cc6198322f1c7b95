//! Random histories of a store, each step compared with a model that keeps every row in a list
//! and scans it.
//!
//! It does not know how the engine stores, merges or recovers anything.
//!
//! `LARDER_MODEL_CASES` sets how many histories are played. A failing one is shrunk, printed, and
//! its seed kept in `proptest-regressions/engine/model.txt`.

mod reference;

mod run;

mod steps;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use crate::model::run::Run;
use crate::model::steps::{History, history};

const CASES: u32 = 60;
const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/engine/model.txt");

#[test]
fn the_engine_is_what_the_model_says() {
    let cases = std::env::var("LARDER_MODEL_CASES")
        .map_or(CASES, |cases| cases.parse().expect("LARDER_MODEL_CASES is a number"));
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        max_shrink_iters: 1_000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&history(), |history| {
        // A panic would lose the history; as a failed case it is shrunk and printed.
        play(&history);
        Ok::<(), TestCaseError>(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn play(history: &History) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut run = Run::start(history.durability).await;
        for (index, step) in history.steps.iter().enumerate() {
            run.step(step).await;
            run.check(index as u64).await;
        }
    });
}
