//! Who is asked: an address and the protocol spoken there.
//!
//! It does not know scenarios.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use serde::Serialize;

use crate::failure::{At, Failure, Outcome};

/// The language a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// Larder's own JSON over HTTP.
    Larder,
    /// RESP: one hash per entity.
    Redis,
    /// The feature server of Feast: JSON over HTTP of its own shape.
    Feast,
    /// Larder's requests, answers that mean nothing.
    Static,
}

/// Where a target listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A target that is there.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was named.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) address: Address,
}

/// A target as a command names it.
#[derive(Clone, Debug)]
pub(crate) enum Named {
    /// It runs already.
    Running(Target),
    /// A Larder to be started from this binary.
    Binary(PathBuf),
}

impl Named {
    /// Reads `http://HOST:PORT`, `unix:PATH`, `larder:BINARY`, `redis://…`, `feast://…` or
    /// `static://…`.
    pub(crate) fn parse(name: &str) -> Outcome<Self> {
        if let Some(path) = name.strip_prefix("larder:") {
            return Ok(Self::Binary(PathBuf::from(path)));
        }
        let running = |protocol, address| {
            Ok(Self::Running(Target { name: name.to_owned(), protocol, address }))
        };
        if let Some(path) = name.strip_prefix("unix:") {
            return running(Protocol::Larder, Address::Unix(PathBuf::from(path)));
        }
        let schemes = [
            ("http://", Protocol::Larder),
            ("redis://", Protocol::Redis),
            ("feast://", Protocol::Feast),
            ("static://", Protocol::Static),
        ];
        for (scheme, protocol) in schemes {
            if let Some(rest) = name.strip_prefix(scheme) {
                let mut found = rest.trim_end_matches('/').to_socket_addrs().at(name)?;
                let address = found.next().ok_or_else(|| Failure::new("no such host")).at(name)?;
                return running(protocol, Address::Tcp(address));
            }
        }
        let expected = "http://HOST:PORT, unix:PATH, larder:BINARY, redis://, feast://, static://";
        Err(Failure::new(format!("target {name}: expected one of {expected}")))
    }
}

impl Address {
    /// What a request says in its Host header.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_by_scheme() {
        let check = |name: &str, protocol: Protocol| match Named::parse(name).unwrap() {
            Named::Running(target) => assert_eq!(target.protocol, protocol),
            Named::Binary(path) => panic!("{name} is the binary {}", path.display()),
        };
        check("http://127.0.0.1:6566/", Protocol::Larder);
        check("unix:/tmp/larder.sock", Protocol::Larder);
        check("redis://127.0.0.1:6379", Protocol::Redis);
        check("feast://127.0.0.1:6570", Protocol::Feast);
        check("static://127.0.0.1:80", Protocol::Static);
        assert!(matches!(Named::parse("larder:target/larder").unwrap(), Named::Binary(_)));
        for wrong in ["127.0.0.1:6566", "https://127.0.0.1:1", "http://127.0.0.1", "ftp://x:1"] {
            assert!(Named::parse(wrong).is_err(), "{wrong}");
        }
    }
}
