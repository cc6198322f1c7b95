//! Restores a backup so that nobody comes back whom later backups beside it know to be erased.
//!
//! It does not know how files are copied, nor how erased bytes are removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::disk::{self, Disk, DiskError};
use crate::engine::erase::{Erase, Unheard, Whom, views_of};
use crate::engine::known::{Known, KnownError};
use crate::history::backup::{self, Backups, Marker, Pinned, Unfit, pin_backup};
use crate::history::open::OpenError;
use crate::history::record::{EncodedRequest, Record, RecordError, RequestBuilder};
use crate::history::replay::{LoggedFrame, Replayed};
use crate::history::restore::{self, Added, Chosen, RestoreError, Restored};
use crate::history::sealed::RowIn;
use crate::history::{History, ReadError};
use crate::ids::{EntityTypeId, ProjectId, Sequence, ViewId};
use crate::registry::Registry;
use crate::time::{ArrivalTime, Span};

/// What was restored, and who was left out.
#[derive(Debug)]
pub struct Outcome {
    /// What was restored.
    pub restored: Restored,
    /// Entities that are in the backup, and were erased after it.
    pub erased: usize,
    /// By when their bytes are gone, if a server runs.
    pub deadline: ArrivalTime,
    /// The later backups that were asked who was erased.
    pub asked: Vec<PathBuf>,
    /// Later backups no longer know of erasures up to this one, and the backup is older.
    pub unremembered: Option<Sequence>,
    /// Backups that could not be asked, since their marker cannot be read.
    pub unreadable: Vec<PathBuf>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The restore itself.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A backup cannot be read.
    #[error(
        "{} cannot be read ({reason}), so nobody knows who was erased; verify it", path.display()
    )]
    Unknown {
        /// The backup.
        path: PathBuf,
        /// What is wrong with it.
        reason: Reason,
    },
    /// Too many entities are to be erased at once.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be opened.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its log or its definitions cannot be read.
    #[error(transparent)]
    Known(#[from] KnownError),
    /// Its rows cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<DiskError> for Error {
    fn from(error: DiskError) -> Self {
        Self::Restore(error.into())
    }
}

/// Restores the backup `from`, or the furthest in it, to `data`. Who was erased after it is erased
/// there too, with the bytes gone `within` that time from `now` on. `progress` hears what is done
/// and how much there is.
///
/// # Errors
/// See [`Error`].
pub fn run(
    disk: &dyn Disk,
    from: &Path,
    data: &Path,
    (now, within): (ArrivalTime, Span),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Outcome, Error> {
    restore::refuse_unless_empty(disk, data)?;
    let chosen = restore::find(disk, from)?;
    let mut later = Later::find(disk, &chosen)?;
    let deadline = now.plus(within);
    let request = later.request(disk, &chosen, deadline)?;
    let added = request.as_ref().map(|request| Added { request, arrival: now });
    let restored = restore::restore(disk, &chosen, data, added, progress)?;
    let Later { asked, unremembered, unreadable, .. } = later;
    let erased = request.map_or(0, |request| request.count() as usize);
    Ok(Outcome { restored, erased, deadline, asked, unremembered, unreadable })
}

/// What backups that are further than the one restored know of erasures.
struct Later {
    /// The furthest of each past: it knows what those before it do.
    backups: Vec<(PathBuf, Marker)>,
    asked: Vec<PathBuf>,
    unremembered: Option<Sequence>,
    unreadable: Vec<PathBuf>,
}

impl Later {
    fn find(disk: &dyn Disk, chosen: &Chosen) -> Result<Self, Error> {
        let beside = match chosen.path.file_name() {
            Some(_) => disk::parent(&chosen.path).to_owned(),
            // A path such as `.` does not say where it lies.
            None => chosen.path.join(".."),
        };
        let Backups { whole, unreadable } = backup::backups(disk, &beside)?;
        let place = |marker: &Marker| (marker.epoch, marker.sequence);
        let mut backups: Vec<(PathBuf, Marker)> = Vec::new();
        for (path, marker) in whole {
            let is_later = place(&marker) > place(&chosen.marker);
            let is_heard = backups.iter().any(|(_, later)| marker.is_of_the_same_past(later));
            if marker.store == chosen.marker.store && is_later && !is_heard {
                backups.push((path, marker));
            }
        }
        let asked = backups.iter().map(|(path, _)| path.clone()).collect();
        let unreadable = unreadable.into_iter().map(|(path, _)| path).collect();
        Ok(Self { backups, asked, unremembered: None, unreadable })
    }

    /// The erasures of all entities in the backup that these know to be erased since.
    fn request(
        &mut self,
        disk: &dyn Disk,
        chosen: &Chosen,
        deadline: ArrivalTime,
    ) -> Result<Option<EncodedRequest>, Error> {
        if self.backups.is_empty() {
            return Ok(None);
        }
        let ours = read(disk, &chosen.path, &chosen.marker)?;
        let mut unheard = Vec::new();
        for (path, marker) in &self.backups {
            let theirs = read(disk, path, marker)?;
            let dropped = theirs.known.erasures.dropped();
            let dropped = dropped.filter(|dropped| *dropped > chosen.marker.sequence);
            self.unremembered = self.unremembered.max(dropped);
            let news = theirs.known.erasures.unheard_by(&ours.known.erasures);
            if !news.is_empty() {
                unheard.push((news, theirs.known.registry));
            }
        }
        if unheard.is_empty() {
            return Ok(None);
        }
        let (registry, last) = (&ours.known.registry, (None, Vec::new()));
        let search = Search { registry, unheard, found: Entities::new(), last };
        let found = search.run(&ours.history);
        let found = found.map_err(|error| unknown(&chosen.path, error))?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut request = RequestBuilder::new(None)?;
        for (project, entity, key) in found {
            let views = views_of(&ours.known.registry, entity);
            let whom = Some(Whom { entity, key });
            request.control(&Erase { project, deadline, whom, views }.encode());
        }
        Ok(Some(request.finish()?))
    }
}

/// A backup that is read.
struct Opened {
    history: History,
    known: Known,
}

fn read(disk: &dyn Disk, path: &Path, marker: &Marker) -> Result<Opened, Error> {
    let open = || -> Result<Opened, Reason> {
        let pinned: Pinned = pin_backup(disk, path, marker)?;
        let history = History::of_pinned(&pinned)?;
        let known = Known::read(&pinned, &history)?;
        Ok(Opened { history, known })
    };
    open().map_err(|reason| unknown(path, reason))
}

fn unknown(path: &Path, reason: impl Into<Reason>) -> Error {
    Error::Unknown { path: path.to_owned(), reason: reason.into() }
}

/// Entities with their projects.
type Entities = BTreeSet<(ProjectId, EntityTypeId, Box<[u8]>)>;

/// Looks through the rows of a backup for entities that were erased later.
struct Search<'a> {
    registry: &'a Registry,
    /// With the definitions of whoever knows them.
    unheard: Vec<(Unheard, Registry)>,
    found: Entities,
    /// Whose row of a sealed file was looked at last.
    last: (Option<ViewId>, Vec<u8>),
}

impl Search<'_> {
    fn run(mut self, history: &History) -> Result<Entities, ReadError> {
        history.replay_after(Sequence::ZERO).run(&mut self)?;
        Ok(self.found)
    }

    fn look(&mut self, view: ViewId, key: &[u8]) {
        match self.registry.view(view) {
            Some(view) => self.look_as(view.entity, key),
            // Nobody knows any more whose a dropped one was.
            None => {
                let given = 0..self.registry.next_ids().entity.0;
                given.for_each(|entity| self.look_as(EntityTypeId(entity), key));
            }
        }
    }

    fn look_as(&mut self, entity: EntityTypeId, key: &[u8]) {
        for (unheard, theirs) in &self.unheard {
            if is_same(entity, self.registry, theirs)
                && let Some(project) = unheard.project_of(entity, key)
            {
                self.found.insert((project, entity, key.into()));
            }
        }
    }
}

impl Replayed<ReadError> for Search<'_> {
    fn row(&mut self, view: ViewId, row: &RowIn<'_>) -> Result<(), ReadError> {
        // They come by view and key.
        if self.last.0 != Some(view) || self.last.1 != row.key {
            self.last.0 = Some(view);
            self.last.1.clear();
            self.last.1.extend_from_slice(row.key);
            self.look(view, row.key);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &LoggedFrame<'_>) -> Result<(), ReadError> {
        let unreadable = |error: RecordError| frame.unreadable(&error);
        for request in frame.requests().map_err(unreadable)? {
            for record in request.map_err(unreadable)?.records() {
                if let (_, Record::Row(row)) = record.map_err(unreadable)? {
                    self.look(row.view, row.key);
                }
            }
        }
        Ok(())
    }
}

/// Whether an id means the same to both. After a restore, two stores may give one to two things.
fn is_same(entity: EntityTypeId, ours: &Registry, theirs: &Registry) -> bool {
    match (ours.entity(entity), theirs.entity(entity)) {
        (Some(ours), Some(theirs)) => ours.project == theirs.project && ours.name == theirs.name,
        // Dropped here or there.
        _ => true,
    }
}
