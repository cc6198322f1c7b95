//! Finds the valid name that a mistaken one was probably meant to be.
//!
//! It does not know what the names stand for.

use std::fmt;

use crate::limits::NAME_BYTES;

/// How many valid names a hint lists where none is near.
const LISTED: usize = 8;
/// How alike two names must be, from 0 to 1, for one to be meant by the other.
const NEAR: f64 = 0.65;
/// Longest name that is compared, in bytes.
const LONGEST_COMPARED: usize = 2 * NAME_BYTES;

/// The end of a message about an unknown name: `; did you mean "user_profile"?`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    /// One valid name is near.
    Meant(String),
    /// None is near; these are valid, and so many more.
    OneOf(Vec<String>, usize),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meant(name) => write!(f, "; did you mean \"{name}\"?"),
            Self::OneOf(names, _) if names.is_empty() => f.write_str("; none is defined"),
            Self::OneOf(names, 0) => write!(f, "; valid: {}", names.join(", ")),
            Self::OneOf(names, more) => write!(f, "; valid: {} and {more} more", names.join(", ")),
        }
    }
}

/// The hint for `name` where only `valid` names are known. Candidates keep their order; a name far
/// longer than names can be is compared with none, since that takes its length times theirs.
pub fn hint<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Hint {
    let valid: Vec<&str> = valid.into_iter().collect();
    if name.len() > LONGEST_COMPARED {
        return listed(&valid);
    }
    let name_folded = name.to_ascii_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        let likeness = strsim::normalized_damerau_levenshtein(&name_folded, &candidate);
        // A name cut short or run on is near, however much is missing.
        let nested = candidate.contains(&name_folded) || name_folded.contains(&candidate);
        let is_word = name_folded.len().min(candidate.len()) >= 3;
        if nested && is_word { likeness.max(NEAR) } else { likeness }
    };
    let best = valid
        .iter()
        .map(|candidate| (likeness(candidate), *candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
    match best {
        Some((likeness, candidate)) if likeness >= NEAR => Hint::Meant(candidate.to_owned()),
        _ => listed(&valid),
    }
}

fn listed(valid: &[&str]) -> Hint {
    let names = valid.iter().take(LISTED).map(|name| (*name).to_owned()).collect();
    Hint::OneOf(names, valid.len().saturating_sub(LISTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_meant_and_others_listed() {
        let check = |name: &str, valid: &[&str], expected: &str| {
            assert_eq!(hint(name, valid.iter().copied()).to_string(), expected, "{name}");
        };
        check("user_profil", &["user_profile", "risk"], "; did you mean \"user_profile\"?");
        check("User_Profile", &["user_profile"], "; did you mean \"user_profile\"?");
        check("profile", &["user_profile", "risk"], "; did you mean \"user_profile\"?");
        check("zebra", &["user_profile", "risk"], "; valid: user_profile, risk");
        check("zebra", &[], "; none is defined");
        let many = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        check("zebra", &many, "; valid: a, b, c, d, e, f, g, h and 2 more");
        let long = "user_profile".repeat(22);
        check(&long[..256], &["user_profile", "risk"], "; did you mean \"user_profile\"?");
        check(&long[..257], &["user_profile", "risk"], "; valid: user_profile, risk");
    }
}
