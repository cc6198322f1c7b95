//! The HTTP door: JSON, Arrow and Parquet in and out of the engine's operations.
//!
//! It does not know how anything is stored or decided; wire types live and die here.

pub mod door;

pub mod accept;

mod connection;

pub mod router;

mod aside;

mod call;

mod body;

mod held;

mod text;

mod problem;

mod request_id;

mod entity_key;

mod lookup_request;

mod asked;

mod lookup;

mod lookup_answer;

mod online;

mod batch;

mod entity;

mod historical;

mod historical_rows;

mod historical_columns;

mod training;

mod streamed;

mod arrow_answer;

mod arrow_body;

mod places;

mod push;

mod push_rows;

mod push_columns;

mod push_arrow;

mod register;

mod listing;

mod cache;

mod erase;

mod load;

mod upload;

mod backup;

mod operations;

mod openapi;

mod docs;
