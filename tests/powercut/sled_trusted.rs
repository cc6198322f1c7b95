//! A store that trusts sled: what `flush` returned for counts as written. A control of the
//! power-cut test, which must find that it is not.
//!
//! `sled_trusted write DIR` writes numbers, a line for each that was flushed; `sled_trusted check
//! DIR` prints how many are there from the first on.

use std::io::Write;
use std::process::exit;

fn open(path: &str) -> sled::Result<sled::Db> {
    sled::Config::new().path(path).flush_every_ms(None).open()
}

fn write(path: &str) -> sled::Result<()> {
    let tree = open(path)?;
    for number in 0_u64.. {
        tree.insert(number.to_be_bytes(), &[b'v'; 100][..])?;
        tree.flush()?;
        let mut said = std::io::stdout().lock();
        writeln!(said, "{number}").and_then(|()| said.flush())?;
    }
    Ok(())
}

fn check(path: &str) -> sled::Result<()> {
    let tree = open(path)?;
    let mut found = 0_u64;
    while tree.contains_key(found.to_be_bytes())? {
        found += 1;
    }
    println!("{found}");
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", path] => write(path),
        ["check", path] => check(path),
        _ => {
            eprintln!("sled_trusted write|check DIR");
            exit(2);
        }
    };
    if let Err(error) = done {
        eprintln!("{error}");
        exit(1);
    }
}
