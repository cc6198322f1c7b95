//! The tables in `docs/` are made from the code; this holds them equal to it.
//!
//! `UPDATE_DOCS=1 cargo test --test documentation` writes them anew.

use std::path::Path;

const BEGIN: &str = "<!-- begin generated table -->\n";
const END: &str = "<!-- end generated table -->\n";

fn check(page: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).expect(page);
    let (before, rest) = text.split_once(BEGIN).expect(page);
    let (found, after) = rest.split_once(END).expect(page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect(page);
    } else {
        assert_eq!(found, table, "{page} differs from the code; run with UPDATE_DOCS=1");
    }
}

#[test]
fn configuration() {
    check("docs/configuration.md", &larder::config::documentation::table());
}

#[test]
fn metrics() {
    check("docs/metrics.md", &larder::metrics::render::documentation());
}
