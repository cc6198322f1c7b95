//! Reads a generation under a watchdog and hands its rows over only as they prove sound.
//!
//! It does not know sled: what it reads may hang, panic or lie.
//!
//! A helper thread opens the store and reads blocks; it owns all it touches and can be left behind.
//! The rows are checked and handed over by the caller's own threads, so that a store that comes
//! back to life later reaches nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::block::Block;
use super::{Sink, Watermark};

/// Threads that read and threads that check; the bar asks for two cores.
const THREADS: u64 = 2;
/// Blocks handed over together, so that the threads seldom wait for each other.
const TOGETHER: usize = 16;
/// Groups of blocks read ahead: a few MiB.
const AHEAD: usize = 16;

/// A store of numbered blocks, opened for reading.
pub(super) trait Blocks: Sync {
    /// The bytes of a block.
    type Bytes: AsRef<[u8]> + Send + 'static;

    /// Passes blocks from `from` up to, not including, `to` to `each` until that says false.
    fn read(
        &self,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, Self::Bytes) -> bool,
    ) -> Result<(), String>;
}

type Message<B> = Result<Vec<(u64, B)>, String>;

/// Reads the whole generation into `sink`. `patience` is how long the store may be silent.
///
/// When this fails, some rows have been handed over: the caller clears the sink.
pub(super) fn load<S: Blocks>(
    watermark: &Watermark,
    patience: Duration,
    open: impl FnOnce() -> Result<S, String> + Send + 'static,
    sink: &dyn Sink,
) -> Result<(), String> {
    for (view, rows) in &watermark.views {
        sink.expect(*view, *rows);
    }
    let (sender, receiver) = bounded(AHEAD);
    let blocks = watermark.blocks;
    thread::Builder::new()
        .name("checkpoint-read".into())
        .spawn(move || read(blocks, open, &sender))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let check = Check {
        watermark,
        patience,
        sink,
        stop: AtomicBool::new(false),
        received: AtomicU64::new(0),
        rows: AtomicU64::new(0),
    };
    let workers: Vec<_> = thread::scope(|scope| {
        let others: Vec<_> =
            (1..THREADS).map(|_| scope.spawn(|| check.work(receiver.clone()))).collect();
        let own = check.work(receiver.clone());
        let others =
            others.into_iter().map(|other| other.join().unwrap_or_else(|panic| Err(said(panic))));
        std::iter::once(own).chain(others).collect()
    });
    let mut crcs = Vec::new();
    for worker in workers {
        crcs.extend(worker?);
    }
    check.finish(crcs)
}

/// What the helper thread does. Its last sender goes when the store is closed.
fn read<S: Blocks>(
    blocks: u64,
    open: impl FnOnce() -> Result<S, String>,
    sender: &Sender<Message<S::Bytes>>,
) {
    let all = || {
        let store = open()?;
        thread::scope(|scope| {
            let store = &store;
            let part = |index| blocks * index / THREADS;
            let readers: Vec<_> = (0..THREADS)
                .map(|index| {
                    scope.spawn(move || read_part(store, part(index), part(index + 1), sender))
                })
                .collect();
            readers.into_iter().try_for_each(|reader| {
                reader.join().unwrap_or_else(|panic| Err(format!("panicked: {}", said(panic))))
            })
        })
    };
    let read = catch_unwind(AssertUnwindSafe(all))
        .unwrap_or_else(|panic| Err(format!("panicked: {}", said(panic))));
    if let Err(reason) = read {
        // Fails only where nobody waits for it any more.
        let _ = sender.send(Err(reason));
    }
}

fn read_part<S: Blocks>(
    store: &S,
    from: u64,
    to: u64,
    sender: &Sender<Message<S::Bytes>>,
) -> Result<(), String> {
    let mut group = Vec::with_capacity(TOGETHER);
    store.read(from, to, &mut |number, bytes| {
        group.push((number, bytes));
        group.len() < TOGETHER
            || sender.send(Ok(std::mem::replace(&mut group, Vec::with_capacity(TOGETHER)))).is_ok()
    })?;
    // Fails only where nobody waits for it any more.
    let _ = sender.send(Ok(group));
    Ok(())
}

/// Runs `work` on a thread that is left behind where it takes longer than `patience`.
pub(super) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = bounded(1);
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(format!("panicked: {}", said(panic))));
        // Fails only where nobody waits for it any more.
        let _ = sender.send(result);
    };
    thread::Builder::new()
        .name("sled-open".into())
        .spawn(run)
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    receiver
        .recv_timeout(patience)
        .unwrap_or_else(|_| Err(format!("nothing came for {patience:?}")))
}

/// What a panic said.
pub(super) fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast_ref::<&str>() {
            Some(text) => (*text).to_owned(),
            None => "without a message".to_owned(),
        },
    }
}

struct Check<'a> {
    watermark: &'a Watermark,
    patience: Duration,
    sink: &'a dyn Sink,
    stop: AtomicBool,
    received: AtomicU64,
    rows: AtomicU64,
}

impl Check<'_> {
    /// Checks blocks until there are no more; returns number and CRC of each.
    fn work<B: AsRef<[u8]>>(
        &self,
        receiver: Receiver<Message<B>>,
    ) -> Result<Vec<(u64, u32)>, String> {
        let mut crcs = Vec::new();
        let result = self.work_until(&receiver, &mut crcs);
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result.map(|()| crcs)
    }

    fn work_until<B: AsRef<[u8]>>(
        &self,
        receiver: &Receiver<Message<B>>,
        crcs: &mut Vec<(u64, u32)>,
    ) -> Result<(), String> {
        while !self.stop.load(Ordering::Relaxed) {
            let before = self.received.load(Ordering::Relaxed);
            match receiver.recv_timeout(self.patience) {
                Ok(message) => {
                    for (number, bytes) in message? {
                        let nth = self.received.fetch_add(1, Ordering::Relaxed);
                        if nth >= self.watermark.blocks {
                            return Err(format!("more blocks than {}", self.watermark.blocks));
                        }
                        crcs.push((number, self.take(number, bytes.as_ref())?));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                // The other thread may have had all the blocks there were.
                Err(RecvTimeoutError::Timeout) => {
                    if self.received.load(Ordering::Relaxed) == before {
                        return Err(format!("nothing came for {:?}", self.patience));
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&self, number: u64, bytes: &[u8]) -> Result<u32, String> {
        let block = Block::open(number, bytes)?;
        let crc = block.crc;
        self.rows.fetch_add(u64::from(block.rows), Ordering::Relaxed);
        block.each(|view, rows| self.sink.rows(view, rows))?;
        Ok(crc)
    }

    /// Each block checked alone; here they are checked to be the ones that were written, all of
    /// them, once.
    fn finish(&self, mut crcs: Vec<(u64, u32)>) -> Result<(), String> {
        crcs.sort_unstable();
        let mut hash = blake3::Hasher::new();
        for (expected, (number, crc)) in (0..).zip(&crcs) {
            if *number != expected {
                return Err(format!("block {expected} is missing"));
            }
            hash.update(&crc.to_le_bytes());
        }
        let expect = |what, found: u64, expected: u64| {
            if found == expected { Ok(()) } else { Err(format!("{found} {what}, not {expected}")) }
        };
        expect("blocks", crcs.len() as u64, self.watermark.blocks)?;
        expect("rows", self.rows.load(Ordering::Relaxed), self.watermark.rows)?;
        if *hash.finalize().as_bytes() != self.watermark.hash {
            return Err("blocks are not those that were written".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::checkpoint::Row;
    use crate::checkpoint::block::Builder;
    use crate::ids::{Sequence, StoreId, ViewId};

    #[derive(Default)]
    struct Collect(Mutex<Vec<u32>>);

    impl Sink for Collect {
        fn expect(&self, _view: ViewId, _rows: u64) {}

        fn rows(&self, view: ViewId, rows: &[Row<'_>]) -> Result<(), String> {
            if view.0 == 66_666 {
                return Err("no such view".into());
            }
            self.0.lock().unwrap().extend(rows.iter().map(|_| view.0));
            Ok(())
        }

        fn clear(&self) {}
    }

    /// Block `n` holds one row of view `n`, unless told otherwise.
    type Change = fn(u64, &mut dyn FnMut(u64, Vec<u8>) -> bool) -> Result<(), String>;

    struct Stub(Change);

    fn block(number: u64, view: u32) -> Vec<u8> {
        let mut builder = Builder::new();
        builder.add(ViewId(view), b"key", b"state");
        builder.finish(number).bytes.to_vec()
    }

    fn plain(number: u64, each: &mut dyn FnMut(u64, Vec<u8>) -> bool) -> Result<(), String> {
        each(number, block(number, u32::try_from(number).unwrap()));
        Ok(())
    }

    impl Blocks for Stub {
        type Bytes = Vec<u8>;

        fn read(
            &self,
            from: u64,
            to: u64,
            each: &mut dyn FnMut(u64, Vec<u8>) -> bool,
        ) -> Result<(), String> {
            (from..to).try_for_each(|number| (self.0)(number, each))
        }
    }

    const BLOCKS: u64 = 1_000;

    fn watermark() -> Watermark {
        let mut hash = blake3::Hasher::new();
        for number in 0..BLOCKS {
            let bytes = block(number, u32::try_from(number).unwrap());
            hash.update(&bytes[..4]);
        }
        Watermark {
            store: StoreId([1; 16]),
            generation: 1,
            covered: Sequence(1),
            highest: Sequence(1),
            rows: BLOCKS,
            blocks: BLOCKS,
            views: Vec::new(),
            hash: *hash.finalize().as_bytes(),
        }
    }

    /// Short where the store is to be found hanging, so that the test is quick; else long, so that
    /// a busy machine does not look like a hanging store.
    fn patience_for(expected: &str) -> Duration {
        if expected == SILENT { Duration::from_millis(200) } else { Duration::from_secs(60) }
    }

    const SILENT: &str = "nothing came for 200ms";

    fn hang() {
        loop {
            thread::park();
        }
    }

    #[test]
    fn a_sound_store_is_read_whole() {
        let sink = Collect::default();
        load(&watermark(), Duration::from_secs(30), || Ok(Stub(plain)), &sink).unwrap();
        let mut views = sink.0.into_inner().unwrap();
        views.sort_unstable();
        assert_eq!(views, (0..u32::try_from(BLOCKS).unwrap()).collect::<Vec<_>>());
    }

    #[test]
    fn whatever_is_odd_while_reading_is_told() {
        let check = |change: Change, expected: &str| {
            let sink = Collect::default();
            let patience = patience_for(expected);
            let error = load(&watermark(), patience, move || Ok(Stub(change)), &sink).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(|number, each| if number == 700 { Ok(()) } else { plain(number, each) }, "missing");
        check(
            |number, each| if number == 999 { Ok(()) } else { plain(number, each) },
            "999 blocks, not 1000",
        );
        check(
            |number, each| {
                each(
                    number,
                    block(number, if number == 3 { 8 } else { u32::try_from(number).unwrap() }),
                );
                Ok(())
            },
            "not those that were written",
        );
        check(
            |number, each| {
                plain(number, each)?;
                plain(number, each)
            },
            "more blocks than 1000",
        );
        check(
            |number, each| {
                each(number, if number == 5 { vec![1; 40] } else { block(number, 1) });
                Ok(())
            },
            "block 5 of 40 bytes fails its checksum",
        );
        check(
            |number, each| {
                each(number, block(number, 66_666));
                Ok(())
            },
            "no such view",
        );
        check(|_, _| Err("it broke".into()), "it broke");
        check(
            |number, each| {
                assert_ne!(number, 10, "on purpose");
                plain(number, each)
            },
            "panicked: assertion",
        );
        check(
            |number, each| {
                if number == 10 {
                    hang();
                }
                plain(number, each)
            },
            SILENT,
        );
    }

    #[test]
    fn whatever_is_odd_while_opening_is_told() {
        let check = |open: fn() -> Result<Stub, String>, expected: &str| {
            let patience = patience_for(expected);
            let error = load(&watermark(), patience, open, &Collect::default()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(|| Err("will not open".into()), "will not open");
        check(|| panic!("on purpose"), "panicked: on purpose");
        check(
            || {
                hang();
                Err(String::new())
            },
            SILENT,
        );
    }
}
