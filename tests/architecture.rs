//! Reads `src/` and holds the walls of the house: floors, doors, and what every file looks like.
//!
//! It does not know what any module does. Each rule is tried on a small bad example at the end of
//! this file, so that it is known to be able to fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

// The rules ---------------------------------------------------------------------------------------

/// The rooms of each floor; a module imports only floors below its own.
const FLOORS: [&[&str]; 7] = [
    &["ids", "time", "limits", "priority", "metrics"],
    &["value", "registry", "recency", "window", "transform", "statistics"],
    &["disk", "frame", "archive"],
    &["history", "online", "checkpoint"],
    &["engine"],
    &["http", "feast", "kafka", "console"],
    &["config", "server", "cli", "main"],
];
/// Floors whose rooms never import each other.
const NO_SISTERS: [usize; 2] = [3, 5];

/// A name, and the only files that may say it.
struct Door {
    /// Segments that stand together in a path.
    path: &'static str,
    /// Beginnings of file paths.
    only_in: &'static [&'static str],
    /// Whether tests may too.
    tests_may: bool,
}

const fn door(path: &'static str, only_in: &'static [&'static str]) -> Door {
    Door { path, only_in, tests_may: false }
}

/// Their threads are not idle, or wait for what comes once.
const ON_CHANNELS: [&str; 5] = [
    "checkpoint/load.rs",
    "engine/maintain.rs",
    "engine/pool.rs",
    "engine/queue.rs",
    "engine/write.rs",
];

const DOORS: [Door; 19] = [
    door("sled", &["checkpoint/"]),
    door("rkyv", &["archive.rs"]),
    // In priority.rs what the kernel tells of a thread, which is a file by its name only.
    Door { path: "std::fs", only_in: &["disk/", "priority.rs"], tests_may: true },
    Door { path: "tokio::fs", only_in: &["disk/"], tests_may: true },
    Door { path: "std::os::unix::fs", only_in: &["disk/"], tests_may: true },
    Door { path: "std::os::linux::fs", only_in: &["disk/"], tests_may: true },
    Door { path: "std::os::fd", only_in: &["disk/"], tests_may: true },
    Door { path: "rustix::fs", only_in: &["disk/"], tests_may: true },
    door("thread_priority", &["priority.rs"]),
    door("rustix::process::nice", &["priority.rs"]),
    door("rayon_core", &["priority/"]),
    // Whoever waits at a channel of crossbeam's yields first, which idle threads must not do.
    Door { path: "crossbeam::channel", only_in: &ON_CHANNELS, tests_may: true },
    door("SystemTime::now", &["time.rs"]),
    door("Instant::now", &["time.rs"]),
    door("Timestamp::now", &["time.rs"]),
    door("Zoned::now", &["time.rs"]),
    door("axum", &["http/", "server.rs", "server/"]),
    door("hyper", &["http/", "server.rs", "server/"]),
    door("hyper_util", &["http/", "server.rs", "server/"]),
];

const LINES: usize = 600;
const COLUMNS: usize = 100;
/// Names that say nothing of what is in a module.
const DRAWERS: [&str; 7] = ["utils", "util", "common", "manager", "helper", "helpers", "misc"];
/// Marks of unfinished work. Written apart, or this file could not be searched for them.
const UNFINISHED: [&str; 4] = ["TODO", "FIXME", "todo!", "unimplemented!"];

type Rule = fn(&Source) -> Vec<String>;

const RULES: [Rule; 8] =
    [floors, escapes, doors, opening, size, attributes, unfinished, module_names];

#[test]
fn the_house_stands() {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 20, "src/ has only {} files", sources.len());
    let broken: Vec<String> =
        sources.iter().flat_map(|source| RULES.iter().flat_map(move |rule| rule(source))).collect();
    assert!(broken.is_empty(), "{} rules broken:\n{}", broken.len(), broken.join("\n"));
}

/// The load test is a house of its own, which looks alike and never enters this one.
#[test]
fn the_load_test_looks_alike_and_stands_apart() {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtest/src"));
    assert!(sources.len() > 20, "loadtest/src/ has only {} files", sources.len());
    let rules: [Rule; 6] = [apart, opening, size, attributes, unfinished, module_names];
    let broken: Vec<String> =
        sources.iter().flat_map(|source| rules.iter().flat_map(move |rule| rule(source))).collect();
    assert!(broken.is_empty(), "{} rules broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_library_says_the_same_of_its_floors() {
    let text = include_str!("../src/lib.rs");
    for (floor, rooms) in FLOORS.iter().enumerate() {
        let said = text.lines().find(|line| line.starts_with(&format!("//! {floor}. ")));
        let said: BTreeSet<&str> = said
            .unwrap_or_else(|| panic!("lib.rs does not name floor {floor}"))
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split_once("`]").map(|(room, _)| room))
            .collect();
        assert!(said.iter().all(|room| rooms.contains(room)), "floor {floor}: {said:?}");
        for room in *rooms {
            let declared = text.contains(&format!("pub mod {room};"));
            assert_eq!(declared, said.contains(room), "lib.rs and room {room}");
        }
    }
}

fn floors(source: &Source) -> Vec<String> {
    let room = source.room();
    if room == "lib" {
        return Vec::new();
    }
    let Some(floor) = floor_of(room) else {
        return vec![source.broken(0, &format!("room {room} stands on no floor"))];
    };
    let judge = |path: &UsedPath| {
        let (first, rest) = path.segments.split_first()?;
        let other = rest.first().filter(|_| first == "crate" || first == "larder")?;
        let refuse = |why: String| Some(source.broken(path.line, &why));
        match floor_of(other) {
            _ if other == room => None,
            None => refuse(format!("imports {other}, which stands on no floor")),
            Some(above) if above > floor => {
                refuse(format!("floor {floor} imports {other} of floor {above}"))
            }
            Some(same) if same == floor && NO_SISTERS.contains(&floor) => {
                refuse(format!("{room} imports its sister {other}"))
            }
            Some(_) => None,
        }
    };
    source.paths().iter().filter_map(judge).collect()
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Paths that climb out of their room, past the crate's name.
fn escapes(source: &Source) -> Vec<String> {
    let climbs = |path: &&UsedPath| {
        let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
        supers > 1 || (supers == 1 && source.is_root_of_room() && !path.in_inline_module)
    };
    let say = |path: &UsedPath| source.broken(path.line, "climbs with super; name it from crate");
    source.paths().iter().filter(climbs).map(say).collect()
}

fn doors(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    for path in source.paths() {
        for door in &DOORS {
            let wanted: Vec<&str> = door.path.split("::").collect();
            // A crate is named at the beginning of a path, a type's function anywhere.
            let named = if wanted[0].starts_with(char::is_uppercase) {
                path.segments.windows(wanted.len()).any(|window| window == wanted)
            } else {
                path.segments
                    .starts_with(&wanted.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
            };
            let inside = door.only_in.iter().any(|place| source.path.starts_with(place));
            if named && !inside && !(door.tests_may && path.in_test) {
                let why = format!("says {}; its only door is {}", door.path, door.only_in[0]);
                broken.push(source.broken(path.line, &why));
            }
        }
    }
    for (line, text) in source.code.lines().enumerate() {
        if words(text).any(|word| word == "unsafe") {
            broken.push(source.broken(line, "is unsafe"));
        }
    }
    broken
}

/// Code that talks to larder over the network and never imports it.
fn apart(source: &Source) -> Vec<String> {
    let paths = source.paths();
    let imports =
        paths.iter().filter(|path| path.segments[0] == "larder" && path.segments.len() > 1);
    imports.map(|path| source.broken(path.line, "imports larder")).collect()
}

/// One sentence that says what a module is, and one that says what it does not know.
fn opening(source: &Source) -> Vec<String> {
    let head: Vec<&str> = source.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let head = head.join(" ");
    if !head.contains('.') {
        return vec![
            source.broken(0, "does not open with //! and a sentence that says what it is"),
        ];
    }
    // The two crates' roots name the rooms, tests what they test.
    let exempt = ["lib", "main"].contains(&source.room()) || source.is_test_file();
    let ignorant = ["not know", "nor know", "knows nothing"];
    if !exempt && !ignorant.iter().any(|phrase| head.contains(phrase)) {
        return vec![source.broken(0, "does not say what it does not know")];
    }
    Vec::new()
}

fn size(source: &Source) -> Vec<String> {
    let mut broken = Vec::new();
    let lines = source.text.lines().enumerate();
    let product = lines.clone().filter(|(line, _)| !source.is_test(*line)).count();
    if product > LINES {
        broken.push(source.broken(0, &format!("has {product} lines without tests, over {LINES}")));
    }
    for (line, text) in blank(&source.text, Blank::Literals).lines().enumerate() {
        let columns = text.chars().count();
        if columns > COLUMNS {
            broken.push(source.broken(line, &format!("has {columns} columns, over {COLUMNS}")));
        }
    }
    broken
}

fn attributes(source: &Source) -> Vec<String> {
    let allows = |(_, text): &(usize, &str)| {
        let dense: String = text.split_whitespace().collect();
        ["#[allow(", "#![allow(", ",allow("].iter().any(|attribute| dense.contains(attribute))
    };
    let lines = source.code.lines().enumerate().filter(allows);
    lines.map(|(line, _)| source.broken(line, "allows a lint; expect it, with a reason")).collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let marked = |(line, text): (usize, &str)| {
        let mark = UNFINISHED.iter().find(|mark| text.contains(**mark))?;
        Some(source.broken(line, &format!("is unfinished: {mark}")))
    };
    source.text.lines().enumerate().filter_map(marked).collect()
}

fn module_names(source: &Source) -> Vec<String> {
    let files = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let inline = source.modules.iter().map(|module| module.name.as_str());
    let drawers = files.chain(inline).filter(|name| DRAWERS.contains(name));
    drawers.map(|name| source.broken(0, &format!("module {name} is a drawer"))).collect()
}

// Reading sources ---------------------------------------------------------------------------------

/// A file of `src/`.
struct Source {
    /// From `src/`, with slashes.
    path: String,
    text: String,
    /// The same with comments and the contents of literals blanked.
    code: String,
    /// Modules written in place.
    modules: Vec<Module>,
    /// Lines that are compiled for tests only, as ranges from and to before.
    tests: Vec<(usize, usize)>,
}

struct Module {
    name: String,
    from: usize,
    to: usize,
}

/// A path as code says it, `use` trees taken apart.
struct UsedPath {
    segments: Vec<String>,
    line: usize,
    in_test: bool,
    in_inline_module: bool,
}

fn read(folder: &Path) -> Vec<Source> {
    let mut files = Vec::new();
    walk(folder, &mut files);
    let mut sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(folder).expect("found there").to_string_lossy();
            let text = fs::read_to_string(file).expect("sources are UTF-8");
            Source::new(&path.replace('\\', "/"), &text)
        })
        .collect();
    // A file that only tests declare is a test, whatever its name.
    let of_tests: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let within = |module: &String| {
            stem.strip_prefix(module.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        if of_tests.iter().any(within) {
            source.tests = vec![(0, usize::MAX)];
        }
    }
    sources
}

fn walk(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("src/ is there") {
        let path = entry.expect("src/ can be read").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank(text, Blank::LiteralsAndComments);
        let modules = inline_modules(&code);
        let tests = test_items(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, modules, tests }
    }

    /// The top-level module it belongs to.
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn is_root_of_room(&self) -> bool {
        !self.path.contains('/') || self.path == format!("{}/mod.rs", self.room())
    }

    fn is_test_file(&self) -> bool {
        self.tests == [(0, usize::MAX)]
    }

    fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|(from, to)| (*from..*to).contains(&line))
    }

    fn broken(&self, line: usize, what: &str) -> String {
        format!("src/{}:{}: {what}", self.path, line + 1)
    }

    /// Paths, without suffix, of modules in files of their own that only tests have.
    fn test_modules(&self) -> Vec<String> {
        let folder =
            self.path.trim_end_matches(".rs").trim_end_matches("mod").trim_end_matches('/');
        let declared = |(line, text): (usize, &str)| {
            let (name, _) = text.split_once("mod ")?.1.split_once(';')?;
            let name = name.trim();
            self.is_test(line).then(|| format!("{folder}/{name}"))
        };
        self.code.lines().enumerate().filter_map(declared).collect()
    }

    fn paths(&self) -> Vec<UsedPath> {
        let mut paths = Vec::new();
        let mut add = |segments: Vec<String>, offset: usize| {
            let line = line_of(&self.code, offset);
            let in_inline_module = self.modules.iter().any(|m| (m.from..m.to).contains(&offset));
            paths.push(UsedPath { segments, line, in_test: self.is_test(line), in_inline_module });
        };
        let mut uses = Vec::new();
        for (offset, _) in self.code.match_indices("use ") {
            let starts_word = !self.code[..offset].ends_with(is_of_name);
            let Some(length) = self.code[offset..].find(';').filter(|_| starts_word) else {
                continue;
            };
            let mut of_tree = Vec::new();
            expand(&self.code[offset + 4..offset + length], &[], &mut of_tree);
            of_tree.into_iter().for_each(|segments| add(segments, offset));
            uses.push(offset..offset + length);
        }
        let mut from = 0;
        while let Some(found) = self.code[from..].find(is_of_name) {
            let start = from + found;
            let (segments, length) = path_at(&self.code[start..]);
            if !uses.iter().any(|tree| tree.contains(&start)) {
                add(segments, start);
            }
            from = start + length.max(1);
        }
        paths
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !is_of_name(c)).filter(|word| !word.is_empty())
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count()
}

/// The names joined by `::` at the beginning of `code`, and their length.
fn path_at(code: &str) -> (Vec<String>, usize) {
    let mut segments = Vec::new();
    let mut length = 0;
    loop {
        let name = code[length..].split(|c: char| !is_of_name(c)).next().unwrap_or_default();
        if name.is_empty() {
            return (segments, length);
        }
        segments.push(name.to_owned());
        length += name.len();
        let rest = code[length..].trim_start();
        let Some(after) = rest.strip_prefix("::") else { return (segments, length) };
        length = code.len() - after.trim_start().len();
    }
}

/// Takes a `use` tree apart.
fn expand(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some(group) = tree.strip_prefix('{') {
        let group = group.strip_suffix('}').unwrap_or(group);
        let mut depth = 0;
        let mut start = 0;
        for (offset, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !group[start..offset].trim().is_empty() {
                        expand(&group[start..offset], before, paths);
                    }
                    start = offset + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let (names, length) = path_at(tree);
    let path: Vec<String> = before.iter().cloned().chain(names).collect();
    match tree[length..].trim_start() {
        rest if rest.starts_with('{') => expand(rest, &path, paths),
        _ => paths.push(path),
    }
}

/// `mod name { … }`: the name, and the bytes between its braces.
fn inline_modules(code: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    for (offset, _) in code.match_indices("mod ") {
        if code[..offset].ends_with(is_of_name) {
            continue;
        }
        let (names, length) = path_at(&code[offset + 4..]);
        let from = offset + 4 + length;
        if code[from..].trim_start().starts_with('{') {
            let to = end_of_item(code, from);
            modules.push(Module { name: names.concat(), from, to });
        }
    }
    modules
}

/// The lines of items under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let marks = code.match_indices("#[cfg(test)]");
    let lines = marks.map(|(offset, mark)| {
        let end = end_of_item(code, offset + mark.len());
        (line_of(code, offset), line_of(code, end) + 1)
    });
    lines.collect()
}

/// Where the item at `from` ends: at its `;`, or at the brace that closes its first.
fn end_of_item(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return from + offset,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + offset,
            _ => {}
        }
    }
    code.len()
}

/// What is taken out of a text.
#[derive(Clone, Copy, PartialEq)]
enum Blank {
    /// Strings and characters, without a trace: no formatter can break them.
    Literals,
    /// Those and comments, with spaces in their place.
    LiteralsAndComments,
}

/// Takes out what is no code, keeping every line where it is.
fn blank(text: &str, what: Blank) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_name = code.ends_with(is_of_name);
        let comment = match rest {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => block_comment(rest),
            _ => 0,
        };
        let literal = match c {
            _ if comment > 0 => 0,
            '"' => string(rest),
            'r' | 'b' | 'c' if !after_name => prefixed_literal(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let length = comment.max(literal);
        let kept = if length == 0 { c.len_utf8() } else { 0 };
        match what {
            Blank::Literals if comment > 0 => code.push_str(&rest[..length]),
            Blank::Literals => code.extend(rest[..length].chars().filter(|c| *c == '\n')),
            Blank::LiteralsAndComments => {
                code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            }
        }
        code.push_str(&rest[length..length + kept]);
        rest = &rest[length + kept..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            let Some(c) = text[at..].chars().next() else { return at };
            at += c.len_utf8();
        }
        if depth == 0 {
            return at;
        }
    }
}

/// From one quote to the next that is not escaped.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (offset, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return offset + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `b'…'`; zero for a name that begins so.
fn prefixed_literal(text: &str) -> usize {
    let prefix = text.find(|c| !matches!(c, 'r' | 'b' | 'c')).unwrap_or(text.len());
    let after = &text[prefix..];
    let raw = text[..prefix].contains('r');
    let hashes = after.len() - after.trim_start_matches('#').len();
    let quoted = &after[hashes..];
    if raw && quoted.starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = quoted[1..].find(&end).map_or(quoted.len(), |found| 1 + found + end.len());
        return prefix + hashes + body;
    }
    match after.chars().next() {
        Some('"') => prefix + string(after),
        Some('\'') if text.starts_with("b'") => prefix + character(after),
        _ => 0,
    }
}

/// A character literal; zero for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            let mut rest = chars.skip(1);
            rest.find(|(_, c)| *c == '\'').map_or(0, |(offset, _)| offset + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(offset, _)| offset + 1),
        None => 0,
    }
}

// The rules can fail ------------------------------------------------------------------------------

/// What `rule` says of a file, without the place.
fn say(rule: Rule, path: &str, text: &str) -> Vec<String> {
    let broken = rule(&Source::new(path, text));
    broken.iter().map(|b| b.split_once(": ").map_or("", |(_, what)| what).to_owned()).collect()
}

fn check(rule: Rule, path: &str, text: &str, expected: &[&str]) {
    let said = say(rule, path, text);
    assert_eq!(said.len(), expected.len(), "{path}: {text}\n{said:?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{path}: {text}\n{said}");
    }
}

#[test]
fn imports_go_down() {
    let check = |path, text, expected: &[&str]| check(floors, path, text, expected);
    check("engine/write.rs", "use crate::history::History;\nuse crate::engine::queue;", &[]);
    check("registry/mod.rs", "use crate::value::cell::Cell;", &[]);
    check("main.rs", "fn main() { larder::cli::run() }", &[]);
    check("history/mod.rs", "use crate::engine::Engine;", &["floor 3 imports engine of floor 4"]);
    check("history/mod.rs", "fn f() { crate::online::get() }", &["imports its sister online"]);
    check("http/push.rs", "use crate::{engine, feast::x};", &["imports its sister feast"]);
    check("time.rs", "use crate::{\n  ids,\n  value::{cell, types},\n};", &["value", "value"]);
    check("value/cell.rs", "pub(crate) use crate::disk::Disk;", &["floor 1 imports disk"]);
    check("value/cell.rs", "#[cfg(test)]\nmod tests { use crate::http::x; }", &["imports http"]);
    check("drawer.rs", "", &["room drawer stands on no floor"]);
    check("ids.rs", "use crate::drawer::x;", &["drawer, which stands on no floor"]);
    check(
        "ids.rs",
        "// use crate::http;\n/* use crate::http; */ const A: &str = \"crate::http\";",
        &[],
    );
}

#[test]
fn rooms_are_left_by_name() {
    let check = |path, text, expected: &[&str]| check(escapes, path, text, expected);
    check("history/index.rs", "use super::segment;", &[]);
    check("time.rs", "mod tests { use super::*; }", &[]);
    check("history/index.rs", "use super::super::online;", &["climbs"]);
    check("history/index.rs", "fn f() { super :: super::online::g() }", &["climbs"]);
    check("history/mod.rs", "use super::online;", &["climbs"]);
    check("frame.rs", "fn f() { super::online::g() }", &["climbs"]);
}

#[test]
fn names_have_one_door() {
    let check = |path, text, expected: &[&str]| check(doors, path, text, expected);
    check("checkpoint/mod.rs", "use sled::Db;", &[]);
    check("engine/open.rs", "use sled::Db;", &["says sled"]);
    check("engine/open.rs", "use crate::checkpoint::sled_checkpoint;", &[]);
    check("frame.rs", "#[derive(rkyv::Archive)]\nstruct A;", &["says rkyv"]);
    check("disk/real.rs", "use std::fs::File;\nuse std::os::unix::fs::FileExt;", &[]);
    check("cli/mod.rs", "use std::{fs, io};", &["says std::fs"]);
    check("cli/mod.rs", "fn f() { std::fs::read(\"x\") }", &["says std::fs"]);
    check("cli/mod.rs", "use std::os::unix::{self, fs::FileExt};", &["std::os::unix::fs"]);
    check("cli/mod.rs", "use rustix::{fs, process};", &["says rustix::fs"]);
    check("cli/mod.rs", "#[cfg(test)]\nmod tests { use std::fs; }", &[]);
    check("cli/mod.rs", "#[cfg(test)]\nmod tests;\nuse std::fs;", &["says std::fs"]);
    check("time.rs", "fn f() { SystemTime::now() }", &[]);
    check("cli/mod.rs", "fn f() { std::time::SystemTime::now() }", &["says SystemTime::now"]);
    check("cli/mod.rs", "fn f() { map(Instant::now) }", &["says Instant::now"]);
    check("http/mod.rs", "use axum::Router;\nuse hyper::body;", &[]);
    check("server.rs", "use hyper_util::rt;", &[]);
    check("engine/mod.rs", "use axum::Router;", &["says axum"]);
    check("cli/mod.rs", "use hyper::{body, header};", &["says hyper", "says hyper"]);
    check("engine/seal.rs", "use crossbeam::channel::Receiver;", &["says crossbeam::channel"]);
    check("engine/queue.rs", "use crossbeam::channel::bounded;", &[]);
    check("archive.rs", "fn f() { unsafe { g() } }", &["is unsafe"]);
    check("archive.rs", "// unsafe\nconst A: &str = r#\"unsafe \" \"#; fn not_unsafe() {}", &[]);
}

#[test]
fn files_look_alike() {
    let good = "//! What it is.\n//!\n//! It does not know the rest.\n";
    check(opening, "online/row.rs", good, &[]);
    check(opening, "online/row.rs", "use std::io;\n", &["does not open with"]);
    check(opening, "online/row.rs", "//! Rows\n", &["does not open with"]);
    check(opening, "online/row.rs", "//! Rows.\n", &["what it does not know"]);
    check(opening, "lib.rs", "//! The house.\n", &[]);

    let long = |lines: usize| "//! A.\n".repeat(lines);
    check(size, "ids.rs", &long(600), &[]);
    check(size, "ids.rs", &long(601), &["601 lines"]);
    let tested =
        format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", long(600), "fn f() {}\n".repeat(99));
    check(size, "ids.rs", &tested, &[]);
    let wide = |columns: usize| format!("//! {}", "é".repeat(columns - 4));
    check(size, "ids.rs", &wide(100), &[]);
    check(size, "ids.rs", &wide(101), &["101 columns"]);
    check(size, "ids.rs", &format!("const A: &str = \"{}\";", wide(101)), &[]);
    check(size, "ids.rs", &format!("const A: char = '\"'; {}", wide(101)), &["columns"]);

    check(attributes, "ids.rs", "#[expect(dead_code, reason = \"x\")]", &[]);
    check(attributes, "ids.rs", "#[allow(dead_code)]", &["allows a lint"]);
    check(attributes, "ids.rs", "#![ allow (dead_code)]", &["allows a lint"]);
    check(attributes, "ids.rs", "#[cfg_attr(test, allow(dead_code))]", &["allows a lint"]);
    check(attributes, "ids.rs", "// #[allow(dead_code)]\nself.allow(1);", &[]);

    check(unfinished, "ids.rs", "// done", &[]);
    for mark in UNFINISHED {
        check(unfinished, "ids.rs", &format!("// {mark}"), &["is unfinished"]);
    }

    check(apart, "setup.rs", "use crate::host::larder;", &[]);
    check(apart, "setup.rs", "use larder::http::door;", &["imports larder"]);

    check(module_names, "value/cell.rs", "mod tests {}", &[]);
    check(module_names, "value/utils.rs", "", &["module utils is a drawer"]);
    check(module_names, "helpers/mod.rs", "", &["module helpers is a drawer"]);
    check(module_names, "ids.rs", "mod common {}", &["module common is a drawer"]);
}

#[test]
fn literals_and_comments_are_no_code() {
    let check = |text: &str, expected: &str| {
        let code = blank(text, Blank::LiteralsAndComments);
        assert_eq!(code, expected);
        assert_eq!(code.lines().count(), text.lines().count());
    };
    check("a // b\nc", "a     \nc");
    check("a /* b /* c */ \n */ d", "a              \n    d");
    check("x(\"a\\\"b\", c)", "x(      , c)");
    check("r#\"a\"b\"# + bar", "         + bar");
    check("('a', '\\'', '\\u{1f}', &'a str)", "(   ,     ,         , &'a str)");
    check("(b'\\n', b\"x\", br\"\\\", bars)", "(     ,     ,      , bars)");
}

#[test]
fn test_files_are_known_by_their_declaration() {
    let source = Source::new("history/mod.rs", "#[cfg(test)]\nmod tests;\npub mod open;\n");
    assert_eq!(source.test_modules(), ["history/tests"]);
    let source = Source::new("history/open.rs", "#[cfg(test)]\npub(super) mod fakes;\n");
    assert_eq!(source.test_modules(), ["history/open/fakes"]);
}
