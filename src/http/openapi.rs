//! `GET /openapi.json`: the API described by its own routes.
//!
//! It does not know how anything is answered.

use crate::http::call::{Answered, Call, Format, respond};

/// Answers the route.
pub(super) async fn handle(_call: Call) -> Answered {
    Ok(respond(Format::Json, Vec::new()))
}
