//! What the configuration accepts and refuses, and in which words.
//!
//! It does not know the command line; arguments are given as the commands would.

use super::documentation::{Entry, entries};
use super::*;

fn file(text: &str) -> Sources {
    let file = SourceFile { path: "larder.toml".to_owned(), text: text.to_owned() };
    Sources { file: Some(file), ..Sources::default() }
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Sources { environment, ..Sources::default() }
}

fn mistakes(sources: &Sources) -> Vec<String> {
    match Config::load(sources) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn the_default_agrees_with_the_code() {
    let config = Config::default();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:6566");
    assert_eq!(config.server.operations_listen, None);
    assert_eq!(config.server.worker_threads, None);
    assert_eq!(config.storage.durability, Durability::Sync);
    assert_eq!(config.storage.segment_size, 64 << 20);
    assert_eq!(Config::load(&file(DEFAULT)).unwrap(), config);
}

/// Every key is commented, read, and says of itself what the code accepts.
#[test]
fn the_shipped_file_says_what_the_code_accepts() {
    let entries = entries();
    let mut text = String::new();
    for Entry { key, meaning, .. } in &entries {
        assert!(!meaning.is_empty(), "{key} has no comment");
        let (section, name) = key.split_once('.').unwrap();
        if !text.contains(&format!("[{section}]")) {
            text.push_str(&format!("[{section}]\n"));
        }
        text.push_str(&format!("{name} = []\n"));
    }
    let Err(Mistakes(mut mistakes)) = Config::load(&file(&text)) else { panic!("accepted") };
    assert_eq!(mistakes.len(), entries.len());
    for entry in &entries {
        let place = mistakes.iter().position(|mistake| {
            matches!(&mistake.problem, mistake::Problem::Value { key, .. } if *key == entry.key)
        });
        let mistake = mistakes.remove(place.unwrap_or_else(|| panic!("{} not read", entry.key)));
        let mistake::Problem::Value { expected, .. } = mistake.problem else { unreachable!() };
        assert_eq!(expected, entry.expected, "{}", entry.key);
    }
}

#[test]
fn later_sources_win() {
    let mut sources = file("[server]\nlisten = \"127.0.0.1:1\"\n[limits]\nconnections = 5\n");
    assert_eq!(Config::load(&sources).unwrap().server.listen.port(), 1);
    sources.environment = vec![
        ("LARDER__SERVER__LISTEN".into(), "127.0.0.1:2".into()),
        ("LARDER__LIMITS__BODY_BYTES".into(), "2MiB".into()),
        ("LARDER__LIMITS__ROW_BYTES".into(), "4096".into()),
        ("LARDER__SERVER__ALLOW_REMOTE_WITHOUT_AUTH".into(), "true".into()),
        ("LARDER_HOME".into(), "passed over".into()),
    ];
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.server.listen.port(), 2);
    assert!(config.server.allow_remote_without_auth);
    assert_eq!(config.limits.body_bytes, 2 << 20);
    assert_eq!(config.limits.row_bytes, 4096);
    assert_eq!(config.limits.connections, 5);
    let value = "127.0.0.1:3".to_owned();
    sources.arguments = vec![Argument { name: "--listen", key: "server.listen", value }];
    assert_eq!(Config::load(&sources).unwrap().server.listen.port(), 3);
}

#[test]
fn good_values_are_read() {
    let config = Config::load(&file(
        "[server]\nlisten = '0.0.0.0:80'\nallow_remote_without_auth = true\n\
         operations_listen = '[::]:9100'\nunix_socket = '/run/larder'\nworker_threads = 3\n\
         [storage]\ndurability = 'interval'\nsync_interval = '1s500ms'\nsegment_size = 0x400000\n\
         cache_size = '0B'\n[registry]\npath = 'defs'\n\
         [log]\nformat = 'json'\nlevel = 'info,larder::history=debug'\n",
    ))
    .unwrap();
    assert_eq!(config.server.operations_listen.unwrap().to_string(), "[::]:9100");
    assert_eq!(config.server.unix_socket, Some("/run/larder".into()));
    assert_eq!(config.server.worker_threads, Some(3));
    assert_eq!(config.storage.durability, Durability::Interval);
    assert_eq!(config.storage.sync_interval, Span::from_micros(1_500_000));
    assert_eq!(config.storage.segment_size, 4 << 20);
    assert_eq!(config.storage.cache_size, 0);
    assert_eq!(config.registry.path, Some("defs".into()));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn bad_files_are_refused_in_words() {
    let check = |text: &str, expected: &str| {
        assert_eq!(mistakes(&file(text)), [expected], "{text}");
    };
    let address = "expected an address such as \"127.0.0.1:6566\"";
    let server = |line: &str, problem: &str| {
        check(&format!("[server]\n{line}"), &format!("larder.toml:2: {problem}"));
    };
    server("listne = \"x\"", "unknown key server.listne; the nearest is server.listen");
    server("data_dir = \"x\"", "unknown key server.data_dir; the nearest is storage.data_dir");
    server("zzzzzzzzzz = 1", "unknown key server.zzzzzzzzzz");
    server("listen = \"localhost\"", &format!("server.listen is \"localhost\"; {address}"));
    server("listen = 6566", &format!("server.listen is 6566; {address}"));
    server("listen = \"\"", &format!("server.listen is \"\"; {address}"));
    server(
        "listen = \"127.0.0.1:65536\"",
        &format!("server.listen is \"127.0.0.1:65536\"; {address}"),
    );
    server("listen = {}", &format!("server.listen is a table; {address}"));
    server(
        "operations_listen = \":9100\"",
        &format!("server.operations_listen is \":9100\"; {address}, or \"\" for none"),
    );
    server(
        "operations_listen = \"127.0.0.1:6566\"",
        "server.operations_listen is \"127.0.0.1:6566\", but server.listen is \
         \"127.0.0.1:6566\": server.listen must be another",
    );
    server(
        "listen = \"0.0.0.0:6566\"",
        "server.listen is \"0.0.0.0:6566\", but server.allow_remote_without_auth is false: \
         server.allow_remote_without_auth must be true for an address other machines reach, \
         since requests carry no credentials",
    );
    server(
        "allow_remote_without_auth = \"yes\"",
        "server.allow_remote_without_auth is \"yes\"; expected true or false",
    );
    server("drain_delay = 5", "server.drain_delay is 5; expected a duration from 0s to 10m");
    server(
        "drain_delay = \"11m\"",
        "server.drain_delay is \"11m\"; expected a duration from 0s to 10m",
    );
    server("worker_threads = -1", "server.worker_threads is -1; expected a number from 0 to 1024");
    server(
        "worker_threads = 1.5",
        "server.worker_threads is 1.5; expected a number from 0 to 1024",
    );
    server(
        "worker_threads = \"4\"",
        "server.worker_threads is \"4\"; expected a number from 0 to 1024",
    );
    server(
        "worker_threads = 99999999999999999999",
        "server.worker_threads is 99999999999999999999; expected a number from 0 to 1024",
    );
    server("unix_socket = true", "server.unix_socket is true; expected a path, or \"\" for none");

    let storage = |line: &str, problem: &str| {
        check(&format!("\n[storage]\n\n{line}"), &format!("larder.toml:4: storage.{problem}"));
    };
    let sync = "expected \"sync\", \"interval\" or \"os\"";
    storage("durability = \"Sync\"", &format!("durability is \"Sync\"; {sync}"));
    storage("durability = true", &format!("durability is true; {sync}"));
    storage("data_dir = \"\"", "data_dir is \"\"; expected a path");
    let size = "expected a size from 1MiB to 1GiB";
    storage("segment_size = \"64MB\"", &format!("segment_size is \"64MB\"; {size}"));
    storage("segment_size = \"64 MiB\"", &format!("segment_size is \"64 MiB\"; {size}"));
    storage("segment_size = \"MiB\"", &format!("segment_size is \"MiB\"; {size}"));
    storage("segment_size = \"-1MiB\"", &format!("segment_size is \"-1MiB\"; {size}"));
    storage("segment_size = 1000", &format!("segment_size is 1000; {size}"));
    storage(
        "segment_size = \"18446744073709551615TiB\"",
        &format!("segment_size is \"18446744073709551615TiB\"; {size}"),
    );
    storage(
        "sync_interval = \"0s\"",
        "sync_interval is \"0s\"; expected a duration from 1ms to 1m",
    );
    storage(
        "read_deadline = \"5 ms\"",
        "read_deadline is \"5 ms\"; expected a duration from 1ms to 1m",
    );

    check(
        "[log]\nformat = \"xml\"",
        "larder.toml:2: log.format is \"xml\"; expected \"auto\", \"json\" or \"text\"",
    );
    for level in ["verbose", "", "info,larder"] {
        check(
            &format!("[log]\nlevel = \"{level}\""),
            &format!(
                "larder.toml:2: log.level is \"{level}\"; expected a level or a tracing filter"
            ),
        );
    }
    check(
        "[log]\nlevel = \"larder=loud\"",
        "larder.toml:2: log.level is \"larder=loud\"; expected a level or a tracing filter",
    );
    check(
        "[limits]\nqueue_bytes = \"4MiB\"",
        "larder.toml:2: limits.body_bytes is \"8MiB\", but limits.queue_bytes is \"4MiB\": \
         limits.queue_bytes must be at least that",
    );
    check(
        "[limits]\nheld_body_bytes = \"4MiB\"",
        "larder.toml:2: limits.body_bytes is \"8MiB\", but limits.held_body_bytes is \"4MiB\": \
         limits.held_body_bytes must be at least that",
    );
    check(
        "[limits]\nrow_bytes = \"16MiB\"",
        "larder.toml:2: limits.row_bytes is \"16MiB\", but limits.body_bytes is \"8MiB\": \
         limits.body_bytes must be at least that",
    );
    check(
        "[limits]\nkey_bytes = \"2KiB\"\nrow_bytes = \"1KiB\"",
        "larder.toml:2: limits.key_bytes is \"2KiB\", but limits.row_bytes is \"1KiB\": \
         limits.row_bytes must be at least that",
    );

    check("[sever]\nlisten = 5", "larder.toml:1: unknown key [sever]; the nearest is [server]");
    check("listen = 5", "larder.toml:1: unknown key listen; the nearest is server.listen");
    check("server = 5", "larder.toml:1: server is 5; expected a section [server]");
    check("[[log]]\nlevel = \"info\"", "larder.toml:1: log is [[log]]; expected a section [log]");
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    for (text, line) in [
        ("[server\n", 1),
        ("\n[server]\nlisten = \n", 3),
        ("[server]\nlisten = \"a\"\nlisten = \"b\"\n", 3),
        ("[server]\nlisten \"a\"\n", 2),
        ("[log]\n[server]\n[log]\n", 3),
    ] {
        let found = mistakes(&file(text));
        assert!(found[0].starts_with(&format!("larder.toml:{line}: ")), "{text:?}: {found:?}");
    }
}

#[test]
fn bad_variables_and_arguments_are_refused_by_name() {
    let check = |name: &str, value: &str, expected: &str| {
        let expected = format!("environment variable {name}: {expected}");
        assert_eq!(mistakes(&environment(&[(name, value)])), [expected]);
    };
    check(
        "LARDER__SERVER__LISTEN",
        "here",
        "server.listen is \"here\"; expected an address such as \"127.0.0.1:6566\"",
    );
    check(
        "LARDER__SERVER__LISTNE",
        "x",
        "unknown key LARDER__SERVER__LISTNE; the nearest is LARDER__SERVER__LISTEN",
    );
    check(
        "LARDER__LISTEN",
        "x",
        "unknown key LARDER__LISTEN; the nearest is LARDER__SERVER__LISTEN",
    );
    check(
        "LARDER__LIMITS__CONNECTIONS",
        "many",
        "limits.connections is \"many\"; expected a number from 1 to 1000000",
    );
    check(
        "LARDER__SERVER__ALLOW_REMOTE_WITHOUT_AUTH",
        "1",
        "server.allow_remote_without_auth is \"1\"; expected true or false",
    );
    check("LARDER__", "", "unknown key LARDER__");

    let value = "there".to_owned();
    let arguments = vec![Argument { name: "--listen", key: "server.listen", value }];
    let expected =
        "--listen: server.listen is \"there\"; expected an address such as \"127.0.0.1:6566\"";
    assert_eq!(mistakes(&Sources { arguments, ..Sources::default() }), [expected]);
}

#[test]
fn all_mistakes_come_at_once() {
    let mut sources = file(
        "[server]\nlisten = 1\nlisten_on = 2\n[storage]\nsegment_size = \"1\"\n[logs]\n\
         [limits]\nbody_bytes = \"1TiB\"\nqueue_bytes = \"1MiB\"\n",
    );
    sources.environment = vec![("LARDER__LOG__FORMAT".into(), "yaml".into())];
    let found = mistakes(&sources);
    assert_eq!(found.len(), 6, "{found:#?}");
    for needle in [
        "larder.toml:3: unknown key server.listen_on",
        "larder.toml:6: unknown key [logs]; the nearest is [log]",
        "larder.toml:2: server.listen is 1",
        "larder.toml:5: storage.segment_size is \"1\"",
        "environment variable LARDER__LOG__FORMAT: log.format is \"yaml\"",
        "larder.toml:8: limits.body_bytes is \"1TiB\"",
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(needle)), "{needle}: {found:#?}");
    }
}
