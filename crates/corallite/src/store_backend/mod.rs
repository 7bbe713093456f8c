//! Objects in the store's own file: [`StoreBackend`].
//!
//! ```text
//! /objects/pages/<n>   pages of the B+tree: documents, indexes, what is known of files
//! /files/<key>         one dataset of bytes per file, its key percent-encoded
//! ```
//!
//! `docs/objects-format.md` describes both. Documents are changed in memory, as copies of pages ([`tree`]), and go into the file
//! with a transaction of the file layer, so that one commit has all of them, and weights too ([`Batch`]).

mod backend;
mod batch;
mod entries;
mod files;
mod group;
mod joined;
mod shared;
mod tree;
mod turn;
mod verify;

pub use backend::StoreBackend;
pub use batch::Batch;
pub use joined::Joined;
pub use tree::OBJECTS_FORMAT_VERSION;
