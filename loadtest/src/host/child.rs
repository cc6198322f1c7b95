//! A server process of our own: pinned when told, watched until it says it is ready, stopped with
//! its owner.
//!
//! It does not know what it serves.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{At, Failure, Outcome};

/// How long a server may take to be ready.
const START: Duration = Duration::from_secs(120);
/// How long it may take to stop when asked.
const STOP: Duration = Duration::from_secs(15);

/// A process that ends when this is dropped.
pub(crate) struct Server {
    child: Child,
}

/// The command that runs `program` on processor `cpu`, or anywhere.
pub(crate) fn command(program: &std::path::Path, cpu: Option<usize>) -> Command {
    let Some(cpu) = cpu else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

impl Server {
    /// Starts `command` and reads what it says until `ready` finds its address in a line.
    pub(crate) fn start(
        mut command: Command,
        ready: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Outcome<(Self, String)> {
        let shown = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().at(format!("cannot start {shown}"))?;
        let (say, heard) = mpsc::channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
            child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        ];
        for output in outputs.into_iter().flatten() {
            let say = say.clone();
            // Reads to the end, or the server would stop at a full pipe.
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = say.send(line);
                }
            });
        }
        drop(say);
        let server = Self { child };
        let mut said = Vec::new();
        let until = Instant::now() + START;
        while let Ok(line) = heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Some(address) = ready(&line) {
                return Ok((server, address));
            }
            said.push(line);
        }
        let last = said.split_off(said.len().saturating_sub(5)).join("\n");
        Err(Failure::new(format!("{shown} did not become ready:\n{last}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
