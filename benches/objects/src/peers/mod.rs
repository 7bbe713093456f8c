//! What else objects and files could be kept in.

pub(crate) mod files;
pub(crate) mod redb;
pub(crate) mod sqlite;
