//! Typed objects, files, relations and indexes over interchangeable backends.

#![deny(unsafe_code)]

pub mod backend;
pub mod conformance;
pub mod error;
pub mod key;
pub mod types;

pub use error::{Error, Result};
pub use types::Type;
