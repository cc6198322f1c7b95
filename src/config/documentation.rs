//! The table of every configuration key, made from the comments of `config.toml`.
//!
//! It does not know what the keys do beyond what stands there.

use super::DEFAULT;
use super::typed::variable;

/// What `config.toml` says of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key with its section, such as `server.listen`.
    pub key: String,
    /// The default as written in TOML.
    pub default: String,
    /// What it means.
    pub meaning: String,
    /// What it may be: type, range, unit.
    pub expected: String,
}

/// Every key of `config.toml`, in its order.
pub fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut section = "";
    let mut comment: Vec<&str> = Vec::new();
    let mut expected = "";
    for line in DEFAULT.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("# Expected: ") {
            expected = text;
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some((key, default)) = line.split_once(" = ") {
            entries.push(Entry {
                key: format!("{section}.{key}"),
                default: default.to_owned(),
                meaning: comment.join(" "),
                expected: std::mem::take(&mut expected).to_owned(),
            });
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        if !line.starts_with('#') {
            comment.clear();
        }
    }
    entries
}

/// The Markdown table of every key, as it stands in `docs/configuration.md`.
pub fn table() -> String {
    let mut text = String::from(
        "| key | default | allowed | meaning | environment |\n|---|---|---|---|---|\n",
    );
    for Entry { key, default, meaning, expected } in entries() {
        let variable = variable(&key);
        text.push_str(&format!(
            "| `{key}` | `{default}` | {expected} | {meaning} | `{variable}` |\n"
        ));
    }
    text
}
