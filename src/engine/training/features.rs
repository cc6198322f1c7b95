//! The features of some labels, gathered from history key by key on threads of their own.
//!
//! It does not know files of labels or of features.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::ArrayRef;

use super::gathered::{Features, OfSource};
use super::labels::{Chunk, Labels};
use super::order::{Ordered, by_key_and_time};
use super::progress::{Try, Work};
use super::seen::Seen;
use super::{CHUNK_BYTES, Known, Training};
use crate::engine::as_of::damaged;
use crate::engine::error::Problem;
use crate::engine::retention::BelowFloor;
use crate::history::as_of::AsOf;
use crate::history::sweep::Sweep;
use crate::metrics::Code;
use crate::priority::Manner;
use crate::registry::Registry;
use crate::registry::model::View;
use crate::registry::plan::Column;
use crate::time::{ArrivalTime, EventTime};

/// Threads that gather for one training set at most.
const THREADS: usize = 8;
/// Labels of one part of the work, and parts for each thread, so that none is left alone with the
/// last of them.
const PART_LABELS: Range<usize> = 512..8192;
const PARTS_EACH: usize = 4;
/// Bytes of values at most in one try, and after how many of them a thread tells the others.
const MOST_BYTES: usize = 2 * CHUNK_BYTES;
const TOLD_BYTES: usize = 1 << 20;

/// Gathers features.
pub(super) struct Gather<'a> {
    history: AsOf,
    registry: Arc<Registry>,
    training: &'a Training,
    work: &'a Work<'a>,
    manner: &'a Manner,
}

/// What came of a try to gather.
pub(super) enum Gathered {
    /// The features of all labels.
    Features(Features),
    /// Their values take too many bytes. About so many labels would do.
    TooLarge(usize),
}

/// One view for one role, with the labels in the order they are looked up.
struct Source<'a> {
    view: &'a View,
    role: usize,
    columns: Vec<&'a Column>,
    order: Ordered,
    /// Labels of a part.
    part: usize,
}

/// Why a thread went no further.
enum Stop {
    TooLarge,
    Failed(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

impl<'a> Gather<'a> {
    pub(super) fn new(
        history: AsOf,
        registry: Arc<Registry>,
        training: &'a Training,
        (work, manner): (&'a Work<'a>, &'a Manner),
    ) -> Self {
        Self { history, registry, training, work, manner }
    }

    /// The columns of every feature of the plan, in its order, each with what is included of it
    /// behind; a row for each label.
    pub(super) fn features(&self, labels: &Labels<'_>) -> Result<Gathered, Problem> {
        let one = Try::begin(self.work);
        let plan = &self.training.plan;
        let mut features = Features::new(plan.columns.len());
        for (index, source) in plan.sources.iter().enumerate() {
            let columns = plan.columns.iter().enumerate();
            let (places, columns): (Vec<usize>, Vec<&Column>) =
                columns.filter(|(_, column)| column.source == index).unzip();
            let threads = threads();
            let part = labels.count().div_ceil(threads * PARTS_EACH);
            let source = Source {
                view: self.view(&source.view),
                role: source.role,
                columns,
                order: self.manner.run(|| by_key_and_time(labels, source.role, threads)),
                part: part.clamp(PART_LABELS.start, PART_LABELS.end),
            };
            match self.gather(labels, &source, &one) {
                Ok(parts) => {
                    let (order, part) = (&source.order.labels, source.part);
                    let of_source = self.manner.run(|| OfSource::new(parts, order, part));
                    features.add(&places, of_source);
                }
                Err(Stop::TooLarge) => return Ok(Gathered::TooLarge(one.undo(labels.count()))),
                Err(Stop::Failed(problem)) => return Err(problem),
            }
        }
        Ok(Gathered::Features(features))
    }

    /// The view as it is now: it may have gained features since the plan was compiled.
    fn view<'v>(&'v self, of_plan: &'v Arc<View>) -> &'v View {
        self.registry.view(of_plan.id).unwrap_or(of_plan)
    }

    /// Refuses labels from before what retention keeps of a view, unless they may be truncated.
    pub(super) fn check_floors(&self, chunk: &Chunk) -> Result<(), Problem> {
        if self.training.allow_truncated {
            return Ok(());
        }
        for source in &self.training.plan.sources {
            let view = self.view(&source.view);
            if self.history.floor(view.id).is_none() {
                continue;
            }
            for (label, at) in chunk.times.iter().enumerate() {
                if let Some(below) = self.below_floor(view, *at) {
                    let mut refusal = below.refusal(&self.registry, view, chunk.first + label);
                    refusal.detail += "; allow_truncated answers the other cells";
                    return Err(refusal);
                }
            }
        }
        Ok(())
    }

    /// Refuses where a view was dropped with its rows meanwhile: some labels may have missed them.
    pub(super) fn check_views(&self) -> Result<(), Problem> {
        let mut views = self.training.plan.sources.iter().map(|source| &source.view);
        views.find(|view| self.history.is_erased(view.id)).map_or(Ok(()), |view| {
            let name = view.declared_name();
            let detail = format!("view {name} was dropped while the training set was made");
            Err(Problem::new(Code::UnknownView, detail))
        })
    }

    fn below_floor(&self, view: &View, at: EventTime) -> Option<BelowFloor> {
        BelowFloor::check(&self.history, view, at, self.training.known_at())
    }

    /// The columns of a source, part by part in the order of the source.
    fn gather(
        &self,
        labels: &Labels<'_>,
        source: &Source<'_>,
        one: &Try<'_>,
    ) -> Result<Vec<Vec<ArrayRef>>, Stop> {
        let parts = source.order.labels.len().div_ceil(source.part);
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done: Mutex<Vec<(usize, Vec<ArrayRef>)>> = Mutex::new(Vec::with_capacity(parts));
        let work = || -> Result<(), Stop> {
            let mut sweep = self.history.sweep(source.view.id);
            self.manner.run_parts(|| {
                let part = next.fetch_add(1, Ordering::Relaxed);
                if part >= parts || stopped.load(Ordering::Relaxed) {
                    return ControlFlow::Break(Ok(()));
                }
                let from = part * source.part;
                let some = from..source.order.labels.len().min(from + source.part);
                match self.gather_part(&mut sweep, labels, (source, some), one) {
                    Ok(arrays) => {
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push((part, arrays));
                        ControlFlow::Continue(())
                    }
                    Err(stop) => {
                        stopped.store(true, Ordering::Relaxed);
                        ControlFlow::Break(Err(stop))
                    }
                }
            })
        };
        thread::scope(|scope| {
            let spawn = |_| {
                thread::Builder::new().name("larder-train".to_owned()).spawn_scoped(scope, work)
            };
            let spawned: Vec<_> = (1..threads().min(parts)).filter_map(|n| spawn(n).ok()).collect();
            let mut outcome = work();
            for thread in spawned {
                let joined = thread.join().unwrap_or_else(|_| {
                    let detail = "a thread that gathers features failed";
                    Err(Problem::new(Code::Internal, detail).into())
                });
                outcome = outcome.and(joined);
            }
            outcome
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(part, _)| *part);
        Ok(done.into_iter().map(|(_, arrays)| arrays).collect())
    }

    fn gather_part(
        &self,
        sweep: &mut Sweep<'_>,
        labels: &Labels<'_>,
        (source, some): (&Source<'_>, Range<usize>),
        one: &Try<'_>,
    ) -> Result<Vec<ArrayRef>, Stop> {
        let include = self.training.include;
        let mut seen = Seen::new(source.view, &source.columns, some.len(), include);
        // Where there is a floor, labels below it were refused unless they may be truncated.
        let has_floor = self.history.floor(source.view.id).is_some();
        let (mut bytes, mut told) = (0, some.start);
        let order = &source.order;
        for place in some.clone() {
            let at = order.times[place];
            if order.turns[place] || place == some.start {
                sweep.turn_to(labels.key(order.labels[place] as usize, source.role));
            }
            if has_floor && self.below_floor(source.view, at).is_some() {
                seen.truncated();
                continue;
            }
            let known_at = match self.training.known {
                Known::AtLabelTime => ArrivalTime::from_micros(at.micros()),
                Known::Now | Known::At(_) => ArrivalTime::MAX,
            };
            seen.begin(at);
            sweep.rows_before((at, known_at), &mut seen).map_err(|error| damaged(&error))?;
            seen.end()?;
            bytes += seen.take_bytes();
            if bytes >= TOLD_BYTES {
                check(one.did(place + 1 - told, bytes), labels)?;
                (bytes, told) = (0, place + 1);
            }
        }
        check(one.did(some.end - told, bytes), labels)?;
        Ok(seen.finish())
    }
}

/// Whether a try for `labels` may go on when it has gathered so many bytes of values. One label has
/// to do, whatever it takes: a row has a limit of its own.
fn check(bytes: usize, labels: &Labels<'_>) -> Result<(), Stop> {
    if bytes > MOST_BYTES && labels.count() > 1 { Err(Stop::TooLarge) } else { Ok(()) }
}

/// Threads that work on one training set at once.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}
