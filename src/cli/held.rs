//! A store held as it is while a command reads its files: a directory that nobody uses, or a
//! running server's, part by part over HTTP.
//!
//! It does not know what the files are read for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::cli::failure::Failure;
use crate::cli::remote::Remote;
use crate::cli::target::Place;
use crate::disk::real::RealDisk;
use crate::disk::{DiskError, DiskFile, DiskLock};
use crate::history::backup::{self, PART_BYTES, Pinned, PinnedFile, pin_directory};
use crate::history::manifest::Manifest;
use crate::ids::Sequence;
use crate::time::Stopwatch;

/// Parts of one file kept: its index is read beside its rows.
const PARTS_KEPT: usize = 4;

/// How often the server hears that what it holds is wanted, whatever is read of it: comparing a
/// large file with an earlier copy takes longer than a server is patient.
const BEAT: Duration = Duration::from_secs(60);

/// How long the server hears that while nothing is asked for: comparing with earlier copies and
/// checking what was copied take hours. Whoever hangs does not hold a server's files for ever.
const SILENCE: Duration = Duration::from_secs(6 * 3600);

/// A store that is held until this is dropped.
pub(super) struct Held {
    pinned: Pinned,
    _lock: Option<DiskLock>,
    _hold: Option<ServersHold>,
}

/// What a server holds for us.
struct ServersHold {
    remote: Arc<Remote>,
    id: u64,
    /// Ends the beat when it is dropped.
    _beat: Sender<()>,
}

/// When a part was asked for last.
type Asked = Arc<Mutex<Stopwatch>>;

#[derive(Deserialize)]
struct Begun {
    id: u64,
    sequence: u64,
    manifest: String,
    files: Vec<BegunFile>,
}

#[derive(Deserialize)]
struct BegunFile {
    name: String,
    bytes: u64,
    sealed: bool,
}

impl Held {
    /// Holds the store of a server or of a directory.
    pub(super) fn of(place: Place) -> Result<Self, Failure> {
        match place {
            Place::Server(remote) => Self::of_server(remote, (BEAT, SILENCE)),
            Place::Directory(path) => {
                let (pinned, lock) = pin_directory(&RealDisk, &path).map_err(Failure::failed)?;
                Ok(Self { pinned, _lock: Some(lock), _hold: None })
            }
        }
    }

    fn of_server(remote: Remote, (beat, silence): (Duration, Duration)) -> Result<Self, Failure> {
        let Begun { id, sequence, manifest, files } =
            remote.parse(&remote.post("/api/v1/backups")?)?;
        let remote = Arc::new(remote);
        let asked: Asked = Arc::new(Mutex::new(Stopwatch::start()));
        let (stop, stopped) = channel();
        let hold = ServersHold { remote: remote.clone(), id, _beat: stop };
        let manifest = STANDARD.decode(manifest).map_err(Failure::failed)?;
        let manifest = Manifest::decode(&manifest).map_err(Failure::failed)?;
        // They become names of files here.
        if let Some(BegunFile { name, .. }) =
            files.iter().find(|file| !backup::is_file_name(&file.name))
        {
            return Err(Failure::failed(format_args!("the server has a file \"{name}\"")));
        }
        if let Some(BegunFile { name, .. }) = files.first() {
            // No byte of it: asking says it all.
            let path = format!("/api/v1/backups/{id}/{name}?offset=0&length=0");
            let (remote, asked) = (remote.clone(), asked.clone());
            let since = move || asked.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            let keep = move || {
                while stopped.recv_timeout(beat) == Err(RecvTimeoutError::Timeout)
                    && since() < silence
                {
                    // What failed for good shows where something is read.
                    let _ = remote.get(&path);
                }
            };
            let beat = thread::Builder::new().name("larder-beat".to_owned()).spawn(keep);
            beat.map_err(Failure::failed)?;
        }
        let file = |BegunFile { name, bytes, sealed }| {
            let (remote, asked, parts) = (remote.clone(), asked.clone(), Mutex::default());
            let path = PathBuf::from(&name);
            let file = Arc::new(RemoteFile { remote, id, asked, path, bytes, parts });
            PinnedFile { name, bytes, sealed, file }
        };
        let files = files.into_iter().map(file).collect();
        let pinned = Pinned { manifest, files, sequence: Sequence(sequence) };
        Ok(Self { pinned, _lock: None, _hold: Some(hold) })
    }

    /// What is held.
    pub(super) fn pinned(&self) -> &Pinned {
        &self.pinned
    }
}

impl Drop for ServersHold {
    fn drop(&mut self) {
        // The server lets go by itself after a while.
        let _ = self.remote.delete(&format!("/api/v1/backups/{}", self.id));
    }
}

/// A file of a server, read only.
struct RemoteFile {
    remote: Arc<Remote>,
    id: u64,
    asked: Asked,
    path: PathBuf,
    bytes: u64,
    /// The last parts read, by offset, the newest last.
    parts: Mutex<Vec<(u64, Arc<[u8]>)>>,
}

impl RemoteFile {
    /// The part of the file that `offset` lies in.
    fn part(&self, offset: u64) -> Result<(u64, Arc<[u8]>), DiskError> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset - offset % PART_BYTES as u64;
        if let Some(at) = parts.iter().position(|(begins, _)| *begins == start) {
            let part = parts.remove(at);
            parts.push(part.clone());
            return Ok(part);
        }
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Stopwatch::start();
        let length = (self.bytes - start).min(PART_BYTES as u64);
        let (id, name) = (self.id, self.path.display());
        let path = format!("/api/v1/backups/{id}/{name}?offset={start}&length={length}");
        let bytes = self.remote.get(&path).map_err(|failure| match failure {
            Failure::Failed(lines) | Failure::WrongUse(lines) => self.failed(lines.join("; ")),
            Failure::Changes => self.failed("refused"),
        })?;
        if bytes.len() as u64 != length {
            return Err(self.failed(format!("{} bytes came, not {length}", bytes.len())));
        }
        let part: (u64, Arc<[u8]>) = (start, bytes.into());
        if parts.len() == PARTS_KEPT {
            parts.remove(0);
        }
        parts.push(part.clone());
        Ok(part)
    }

    fn failed(&self, reason: impl Into<String>) -> DiskError {
        DiskError::reading(&self.path, io::Error::other(reason.into()))
    }

    fn never(&self) -> DiskError {
        self.failed("the files of a server are only read")
    }
}

impl DiskFile for RemoteFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut read = 0;
        while read < buffer.len() && offset + (read as u64) < self.bytes {
            let at = offset + read as u64;
            let (start, part) = self.part(at)?;
            let rest = &part[(at - start) as usize..];
            let taken = rest.len().min(buffer.len() - read);
            buffer[read..read + taken].copy_from_slice(&rest[..taken]);
            read += taken;
        }
        Ok(read)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        Err(self.never())
    }

    fn preallocate(&self, _: u64) -> Result<(), DiskError> {
        Err(self.never())
    }

    fn truncate(&self, _: u64) -> Result<(), DiskError> {
        Err(self.never())
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        Err(self.never())
    }

    fn length(&self) -> Result<u64, DiskError> {
        Ok(self.bytes)
    }

    fn drop_cache(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::config::{Config, Sources};
    use crate::ids::{Epoch, StoreId};
    use crate::time::ArrivalTime;

    /// A server that answers everything with `answer`, and what it hears.
    fn server(answer: String) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (hear, heard) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, answer, hear) = (stream.unwrap(), answer.clone(), hear.clone());
                thread::spawn(move || converse(&stream, &answer, &hear));
            }
        });
        (url, heard)
    }

    fn converse(mut stream: &TcpStream, answer: &str, hear: &Sender<String>) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        while let Some(first) = lines.next() {
            // The end of a body that is none.
            let Some(asked) = first.strip_suffix(" HTTP/1.1") else { continue };
            let _ = lines.find(String::is_empty);
            let _ = hear.send(asked.to_owned());
            let length = answer.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
        }
    }

    const FILE: &str = "00000000000000000001.log";

    /// What a server answers that holds a long file.
    fn begun() -> String {
        let manifest = Manifest {
            store: StoreId([7; 16]),
            epoch: Epoch(1),
            past: 0,
            last_arrival: ArrivalTime::MIN,
            segments: Vec::new(),
            sealed: Vec::new(),
            floors: Vec::new(),
            control: None,
        };
        let begun = serde_json::json!({
            "id": 7, "sequence": 1, "manifest": STANDARD.encode(manifest.encode()),
            "files": [{ "name": FILE, "bytes": 9_000_000_000_u64, "sealed": false }],
        });
        begun.to_string()
    }

    fn held(url: &str, silence: Duration) -> Held {
        let nothing = Sources::default();
        let remote = Remote::new(Some(url), &Config::load(&nothing).unwrap()).unwrap();
        Held::of_server(remote, (Duration::from_millis(5), silence)).unwrap()
    }

    #[test]
    fn the_server_hears_that_what_it_holds_is_wanted_until_it_is_not() {
        let (url, heard) = server(begun());
        let held = held(&url, SILENCE);
        let next = || heard.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(next(), "POST /api/v1/backups");
        for _ in 0..3 {
            assert_eq!(next(), format!("GET /api/v1/backups/7/{FILE}?offset=0&length=0"));
        }
        drop(held);
        while next() != "DELETE /api/v1/backups/7" {}
    }

    #[test]
    fn the_server_hears_nothing_of_who_asks_for_nothing_for_long() {
        let (url, heard) = server(begun());
        let held = held(&url, Duration::ZERO);
        // Time for some beats.
        thread::sleep(Duration::from_millis(200));
        drop(held);
        let next = || heard.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!([next(), next()], ["POST /api/v1/backups", "DELETE /api/v1/backups/7"]);
    }
}
