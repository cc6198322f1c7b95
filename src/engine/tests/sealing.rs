//! Sealing beside writes and checkpoints.
//!
//! They do not look inside files.

use super::bounds::eventually;
use super::*;

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
