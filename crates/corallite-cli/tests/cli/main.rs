//! The promises of the command line, checked on the built binary: what it does, says, and ends with.
#![allow(clippy::unwrap_used, clippy::panic)] // the workspace lints exempt test functions, but not their helpers

mod bench;

mod changing;
mod comparing;
mod exit_codes;
mod looking;
mod objects;
mod words;
