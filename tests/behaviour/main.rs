//! What the server answers, request by request, asked of the real binary over real connections:
//! the contract at the door, and what it does with everything that is not in the contract.

#[path = "../process/mod.rs"]
mod process;

mod door;

mod tables;

mod bad_requests;

mod bad_files;

mod wire;

mod lookups;

mod repeated;

mod history;

mod writes;

mod definitions;

mod operations;

mod limits;

mod interrupted_loads;

mod forgotten;
