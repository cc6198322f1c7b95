//! The `larder` binary: arguments in, exit code out.

fn main() {}
