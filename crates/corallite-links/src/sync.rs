//! The locks of group commit and of the committer's queue. `tests/schedules.rs` compiles those two files with shuttle's
//! locks in place of these, and runs them under thousands of schedules.

pub(crate) use std::sync::Arc;

pub(crate) use parking_lot::{Condvar, Mutex};
