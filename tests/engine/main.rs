//! The engine from outside, on real directories: against a model, against plain scans of real
//! data, and against answers worked out without it.

mod as_of;

mod expected;

mod export;

mod model;

mod support;

mod training;
