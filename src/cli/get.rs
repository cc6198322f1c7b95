//! `larder get`: the newest features of one entity, as JSON.
//!
//! It does not know how they are found.

use clap::Args;

use crate::cli::directory::IfMissing;
use crate::cli::failure::Failure;
use crate::cli::target::{Whom, encode};
use crate::cli::{Done, terminal};

const EXAMPLE: &str = "Examples:\n  larder get tailnum N14228\n  \
                       larder get tailnum N14228 --service aircraft\n  \
                       larder get route JFK SFO --data ./data\n\n\
                       Exit codes: 0 found, 1 failed or no such entity, 2 wrong use.";

/// Shows the newest features of one entity
#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(super) struct Get {
    /// The entity type, such as user
    #[arg(value_name = "ENTITY_TYPE")]
    entity_type: String,
    /// The entity's key; one argument for each join key in their order, or all with commas between
    #[arg(value_name = "KEY", required = true)]
    key: Vec<String>,
    /// Only what this service asks for
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// The project of the entity [default: default]
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

impl Get {
    pub(super) fn run(&self) -> Done {
        let target = self.whom.find(IfMissing::Refuse)?;
        let answer = target.get(&self.path())?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).map_err(Failure::failed)?;
        terminal::say(format_args!("{answer:#}"));
        Ok(())
    }

    fn path(&self) -> String {
        let key = match self.key.as_slice() {
            // Commas stand between the parts of a composite key, and for themselves in a single
            // one.
            [whole] => encode(whole).replace("%2C", ","),
            parts => parts.iter().map(|part| encode(part)).collect::<Vec<_>>().join(","),
        };
        let mut path = format!("/api/v1/features/{}/{key}", encode(&self.entity_type));
        let options = [("service", &self.service), ("project", &self.project)];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (index, (name, value)) in given.enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            path.push_str(&format!("{separator}{name}={}", encode(value)));
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        get: Get,
    }

    #[test]
    fn keys_are_one_argument_or_several() {
        let check = |arguments: &[&str], expected: &str| {
            let line = Line::parse_from([&["get"], arguments].concat());
            assert_eq!(line.get.path(), format!("/api/v1/features/{expected}"));
        };
        check(&["user", "u1"], "user/u1");
        check(&["user", "a,b"], "user/a,b");
        check(&["user", "a/b%"], "user/a%2Fb%25");
        check(&["route", "JFK,SFO"], "route/JFK,SFO");
        check(&["route", "JFK", "S,O"], "route/JFK,S%2CO");
        check(&["user", "u1", "--service", "a b"], "user/u1?service=a%20b");
        let both = ["user", "u1", "--project", "p", "--service", "s"];
        check(&both, "user/u1?service=s&project=p");
    }
}
