//! The values a feature or a join key can have: their types, their text and JSON forms, their keys.
//!
//! It does not know features by name, nor how rows are stored.

pub mod types;

pub mod cell;

pub mod json;

pub mod key;

pub mod layout;

pub mod columns;
