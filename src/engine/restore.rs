//! Restores a backup so that nobody comes back whom other backups beside it know to be erased.
//!
//! It does not know how files are copied, nor how erased bytes are removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk::{self, Disk, DiskError};
use crate::engine::erase::{ByEntity, Erase, Request, Whom, views_of};
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
    /// The erasures of entities that are in the backup, which does not know of them.
    pub erased: Vec<Applied>,
    /// By when their bytes are gone, if a server runs.
    pub deadline: ArrivalTime,
    /// The backups that were asked who was erased.
    pub asked: Vec<PathBuf>,
    /// Those that no longer know of erasures up to some sequence, which the backup may not know.
    pub unremembered: Vec<(PathBuf, Sequence)>,
    /// Backups that could not be asked, since their marker cannot be read.
    pub unreadable: Vec<PathBuf>,
}

/// An erasure that was done to what is restored, since another backup knows of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// That backup.
    pub by: PathBuf,
    /// What the erasure is called there.
    pub request: Request,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The restore itself.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The backup cannot be read.
    #[error("{} cannot be read ({reason}); verify it", path.display())]
    Unreadable {
        /// The backup.
        path: PathBuf,
        /// What is wrong with it.
        reason: Reason,
    },
    /// Another backup, which may know who was erased, cannot be read.
    #[error(
        "{} cannot be read ({reason}); it may know of entities that were erased after {} was \
         taken, and they would come back; put a sound copy of it in its place, or move it out of \
         the directory and restore again: then whoever only it knows to be erased is back",
        path.display(), chosen.display()
    )]
    Unknown {
        /// That backup.
        path: PathBuf,
        /// The one to be restored.
        chosen: PathBuf,
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

/// Restores the backup `from`, or the furthest in it, to `data`. Who was erased without its knowing
/// is erased there too, with the bytes gone `within` that time from `now` on. `progress` hears what
/// is done and how much there is.
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
    let mut others = Others::find(disk, &chosen)?;
    let deadline = now.plus(within);
    let request = others.request(disk, &chosen, deadline)?;
    let added = request.as_ref().map(|request| Added { request, arrival: now });
    let restored = restore::restore(disk, &chosen, data, added, progress)?;
    let Others { backups, erased, unremembered, unreadable } = others;
    let asked = backups.into_iter().map(|(path, _)| path).collect();
    Ok(Outcome { restored, erased, deadline, asked, unremembered, unreadable })
}

/// The backups that may know of erasures that the one restored does not, and what they know.
struct Others {
    /// The furthest of each past: it knows what those before it do. A store that was restored goes
    /// another way than the one it was taken from, and both may go on, so there may be several.
    backups: Vec<(PathBuf, Marker)>,
    erased: Vec<Applied>,
    unremembered: Vec<(PathBuf, Sequence)>,
    unreadable: Vec<PathBuf>,
}

impl Others {
    fn find(disk: &dyn Disk, chosen: &Chosen) -> Result<Self, Error> {
        let beside = match chosen.path.file_name() {
            Some(_) => disk::parent(&chosen.path).to_owned(),
            // A path such as `.` does not say where it lies.
            None => chosen.path.join(".."),
        };
        let Backups { whole, unreadable } = backup::backups(disk, &beside)?;
        let knows = |other: &Marker, marker: &Marker| {
            marker.is_of_the_same_past(other) && marker.sequence <= other.sequence
        };
        let mut backups: Vec<(PathBuf, Marker)> = Vec::new();
        for (path, marker) in whole {
            let is_heard = knows(&chosen.marker, &marker)
                || backups.iter().any(|(_, other)| knows(other, &marker));
            if marker.store == chosen.marker.store && !is_heard {
                backups.push((path, marker));
            }
        }
        let unreadable = unreadable.into_iter().map(|(path, _)| path).collect();
        Ok(Self { backups, erased: Vec::new(), unremembered: Vec::new(), unreadable })
    }

    /// The erasures of all entities in the backup that these know to be erased.
    fn request(
        &mut self,
        disk: &dyn Disk,
        chosen: &Chosen,
        deadline: ArrivalTime,
    ) -> Result<Option<EncodedRequest>, Error> {
        if self.backups.is_empty() {
            return Ok(None);
        }
        let path = &chosen.path;
        let unreadable = |reason| Error::Unreadable { path: path.clone(), reason };
        let ours = read(disk, path, &chosen.marker).map_err(unreadable)?;
        let mut unheard = Vec::new();
        for (path, marker) in &self.backups {
            let theirs = read(disk, path, marker).map_err(|reason| {
                let (path, chosen) = (path.clone(), chosen.path.clone());
                Error::Unknown { path, chosen, reason }
            })?;
            let dropped = theirs.known.erasures.dropped();
            // What another past dropped may be of before it went its own way, or of after.
            let is_known = |dropped: &Sequence| {
                *dropped <= chosen.marker.sequence && chosen.marker.is_of_the_same_past(marker)
            };
            let dropped = dropped.filter(|dropped| !is_known(dropped));
            self.unremembered.extend(dropped.map(|dropped| (path.clone(), dropped)));
            let news = theirs.known.erasures.unheard_by(&ours.known.erasures);
            if !news.is_empty() {
                unheard.push((path.as_path(), news, theirs.known.registry));
            }
        }
        if unheard.is_empty() {
            return Ok(None);
        }
        let Known { registry, erasures } = &ours.known;
        let (known, last) = (erasures.by_entity(|_| true), (None, Vec::new()));
        let search = Search { registry, known, unheard, found: Entities::new(), last };
        let found = search.run(&ours.history).map_err(|error| unreadable(error.into()))?;
        if found.is_empty() {
            return Ok(None);
        }
        let mut request = RequestBuilder::new(None)?;
        for ((project, entity, key), applied) in found {
            let views = views_of(registry, entity);
            let whom = Some(Whom { entity, key });
            request.control(&Erase { project, deadline, whom, views }.encode());
            self.erased.push(applied);
        }
        Ok(Some(request.finish()?))
    }
}

/// A backup that is read.
struct Opened {
    history: History,
    known: Known,
}

fn read(disk: &dyn Disk, path: &Path, marker: &Marker) -> Result<Opened, Reason> {
    let pinned: Pinned = pin_backup(disk, path, marker)?;
    let history = History::of_pinned(&pinned)?;
    let known = Known::read(&pinned, &history)?;
    Ok(Opened { history, known })
}

/// Entities with their projects, and the erasure that one other backup knows of each.
type Entities = BTreeMap<(ProjectId, EntityTypeId, Box<[u8]>), Applied>;

/// Looks through the rows of a backup for entities that others know to be erased.
struct Search<'a> {
    registry: &'a Registry,
    /// The erasures that it knows of.
    known: ByEntity,
    /// Those it does not, with whoever knows them and their definitions.
    unheard: Vec<(&'a Path, ByEntity, Registry)>,
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
        for (by, unheard, theirs) in &self.unheard {
            if is_same(entity, self.registry, theirs)
                && let Some(request) = unheard.of(entity, key)
                // Who was erased again since, and came back, is not erased a third time.
                && self
                    .known
                    .of(entity, key)
                    .is_none_or(|known| known.requested <= request.requested)
            {
                let applied = || Applied { by: by.to_path_buf(), request };
                let whom = (request.project, entity, key.into());
                self.found.entry(whom).or_insert_with(applied);
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
