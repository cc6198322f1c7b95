//! Starts a Larder for a measurement, with an empty data directory of its own.
//!
//! It does not know what Larder is asked; it reads the line of its log that says ready.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::failure::{At, Outcome};
use crate::host::child::{Server, command};
use crate::target::{Named, Target};

/// A Larder that runs until this is dropped.
pub(crate) struct Larder {
    pub(crate) target: Target,
    // Dropped in this order: the directory goes when nobody writes to it any more.
    _server: Server,
    _data: TempDir,
}

impl Larder {
    /// Starts `binary` on processor `cpu` with `settings`, such as `storage.cache_size`.
    pub(crate) fn start(
        binary: &Path,
        cpu: Option<usize>,
        settings: &BTreeMap<String, String>,
    ) -> Outcome<Self> {
        let binary = std::fs::canonicalize(binary).at(binary.display())?;
        let data = TempDir::with_prefix("larder-loadtest-").at("cannot create a data directory")?;
        let mut command = command(&binary, cpu);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path());
        // Away from a config.toml that lies here, which may be that of another build.
        command.current_dir(data.path());
        command.env("LARDER__LOG__FORMAT", "json");
        for (key, value) in settings {
            command.env(format!("LARDER__{}", key.replace('.', "__").to_uppercase()), value);
        }
        let (server, address) = Server::start(command, ready)?;
        let Named::Running(mut target) = Named::parse(&format!("http://{address}"))? else {
            unreachable!("an address is no binary")
        };
        target.name = format!("larder:{}", binary.display());
        Ok(Self { target, _server: server, _data: data })
    }
}

/// The address in the line that says ready.
fn ready(line: &str) -> Option<String> {
    let line: Json = serde_json::from_str(line).ok()?;
    (line["message"] == "larder ready").then(|| line["listen"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ready_line_names_the_address() {
        let line = r#"{"level":"INFO","message":"larder ready","listen":"127.0.0.1:4711"}"#;
        assert_eq!(ready(line).as_deref(), Some("127.0.0.1:4711"));
        assert_eq!(ready(&line.replace("larder ready", "listening; recovering")), None);
        assert_eq!(ready("larder ready listen=127.0.0.1:4711"), None);
    }
}
