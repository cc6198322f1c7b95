//! Why a command did not do what it was asked, and the exit code that says so.
//!
//! It does not know the commands.

use std::fmt;
use std::process::ExitCode;

use serde::Deserialize;

use crate::cli::terminal;
use crate::config::Mistakes;
use crate::engine::error::Problem;
use crate::registry::definitions::DefinitionError;
use crate::server::definition_files::ReadError;

/// How a command ends that is not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was asked wrongly, or what it was given has mistakes. Exit code 2.
    WrongUse(Vec<String>),
    /// It could not be done. Exit code 1.
    Failed(Vec<String>),
    /// A dry run found changes. Exit code 3, and nothing more to say.
    Changes,
}

impl Failure {
    /// Asked wrongly, in one sentence.
    pub(super) fn wrong_use(message: impl fmt::Display) -> Self {
        Self::WrongUse(vec![message.to_string()])
    }

    /// Not done, in one sentence.
    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::Failed(vec![message.to_string()])
    }

    /// The same, with a line before it that says what it is about.
    pub(super) fn about(mut self, what: impl fmt::Display) -> Self {
        if let Self::WrongUse(lines) | Self::Failed(lines) = &mut self {
            lines.insert(0, what.to_string());
        }
        self
    }

    /// Whether one of its lines says this.
    pub(super) fn says(&self, words: &str) -> bool {
        let (Self::WrongUse(lines) | Self::Failed(lines)) = self else { return false };
        lines.iter().any(|line| line.contains(words))
    }

    /// The same, with a line behind it that says what to do.
    pub(super) fn then(mut self, what: impl fmt::Display) -> Self {
        if let Self::WrongUse(lines) | Self::Failed(lines) = &mut self {
            lines.push(what.to_string());
        }
        self
    }

    /// What a refused request answered.
    pub(super) fn of_answer(body: &[u8]) -> Self {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => refusal.into(),
            Err(_) => Self::failed("the answer is not what a larder server says"),
        }
    }

    /// Says it on standard error.
    pub(super) fn print(&self) {
        let (Self::WrongUse(lines) | Self::Failed(lines)) = self else { return };
        for line in lines {
            terminal::note(line);
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::FAILURE,
            Self::WrongUse(_) => ExitCode::from(2),
            Self::Changes => ExitCode::from(3),
        }
    }
}

impl From<Mistakes> for Failure {
    fn from(Mistakes(mistakes): Mistakes) -> Self {
        Self::WrongUse(mistakes.iter().map(ToString::to_string).collect())
    }
}

impl From<Vec<DefinitionError>> for Failure {
    fn from(errors: Vec<DefinitionError>) -> Self {
        Self::WrongUse(errors.iter().map(ToString::to_string).collect())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Mistakes(mistakes) => mistakes.into(),
            error => Self::wrong_use(error),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let places = problem.places.into_iter().map(|place| RefusedPlace {
            index: place.index,
            field: place.field,
            found: place.found,
            expected: place.expected,
        });
        let errors = places.collect();
        let code = problem.code.as_str().to_owned();
        Refusal { title: None, detail: problem.detail, code, errors }.into()
    }
}

/// What a refused request says, as problem JSON.
#[derive(Deserialize, Debug)]
pub(super) struct Refusal {
    title: Option<String>,
    detail: String,
    code: String,
    #[serde(default)]
    errors: Vec<RefusedPlace>,
}

#[derive(Deserialize, Debug)]
struct RefusedPlace {
    index: Option<usize>,
    field: String,
    found: String,
    expected: String,
}

impl From<Refusal> for Failure {
    fn from(Refusal { title, detail, code, errors }: Refusal) -> Self {
        let title = title.map(|title| format!("{title}: ")).unwrap_or_default();
        let first = format!("{title}{detail} ({code})");
        // A single place may be all that the detail is about.
        let is_new = |place: &&RefusedPlace| {
            !detail.contains(&place.field) || !detail.contains(&place.expected)
        };
        let places = errors.iter().filter(is_new).map(RefusedPlace::line);
        Self::Failed([first].into_iter().chain(places).collect())
    }
}

impl RefusedPlace {
    /// `row 3, age: found "ten", expected int32`, as far as the parts are there.
    fn line(&self) -> String {
        let Self { index, field, found, expected } = self;
        let row = index.map(|index| format!("row {index}, ")).unwrap_or_default();
        match found.as_str() {
            "" => format!("  {row}{field}: {expected}"),
            found => format!("  {row}{field}: found {found}, expected {expected}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_title_detail_code_and_places() {
        let json = r#"{"type":"urn:x","title":"a value is not valid","status":400,
            "detail":"2 bad rows","code":"INVALID_VALUE","request_id":"r1","errors":[
            {"index":3,"field":"age","found":"\"ten\"","expected":"int32"},
            {"field":"view.a.ttl","found":"","expected":"a duration"}]}"#;
        let refusal: Refusal = serde_json::from_str(json).unwrap();
        let Failure::Failed(lines) = refusal.into() else { panic!("a refusal is a failure") };
        let expected = [
            "a value is not valid: 2 bad rows (INVALID_VALUE)",
            "  row 3, age: found \"ten\", expected int32",
            "  view.a.ttl: a duration",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn nothing_is_said_twice() {
        let json = r#"{"detail":"the labels lack a column: at: no such column, expected timestamp",
            "code":"INVALID_VALUE","errors":[
            {"field":"at","found":"no such column","expected":"timestamp"}]}"#;
        let refusal: Refusal = serde_json::from_str(json).unwrap();
        let failure = Failure::from(refusal).then("try again");
        assert!(failure.says("lack a column") && !failure.says("found no such column"));
        let Failure::Failed(lines) = failure else { panic!("a refusal is a failure") };
        assert_eq!((lines.len(), &*lines[1]), (2, "try again"));
    }
}
