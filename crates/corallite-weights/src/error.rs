//! The one error type of this crate, and what each kind of failure means to the person reading it.
//!
//! Every variant carries the path, key or offset it is about, and its text ends with what can be
//! done. Nothing in this crate panics on outside input; it returns one of these.

use std::path::PathBuf;

use crate::hash::WeightHash;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong when weights are read, written, encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{path}: {source}; check that the path exists and may be accessed", path = .path.display())]
    Io {
        /// The file in question.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// Bytes are not a well-formed safetensors file.
    #[error("{path} is not a valid safetensors file, at byte {offset}: {problem}; \
             the file is incomplete or was written wrongly, fetch or export it again",
             path = .path.display())]
    Safetensors {
        /// The file, or `<memory>` for bytes that came from no file.
        path: PathBuf,
        /// Where in the file the problem was noticed, in bytes from its start.
        offset: u64,
        /// What is wrong, naming the tensor where there is one.
        problem: String,
    },

    /// A dtype name that no supported format knows.
    #[error("unknown dtype `{name}`; use a numpy name such as `float32` or a safetensors name such as `F32`")]
    UnknownDtype {
        /// The name as it was found.
        name: String,
    },

    /// Two tensors of one set carry the same name.
    #[error("the tensor name `{name}` occurs twice; rename one of the two")]
    DuplicateName {
        /// The repeated name.
        name: String,
    },

    /// Text that cannot be the key of a weight.
    #[error("`{key}` cannot be a weight key: {problem}; use 1 to 255 bytes of text without `/`")]
    InvalidKey {
        /// The refused key, with unprintable characters escaped.
        key: String,
        /// Which rule it breaks.
        problem: &'static str,
    },

    /// The data does not have the length that shape and dtype call for.
    #[error("tensor `{name}`: {problem}; give data, shape and dtype that belong together")]
    ShapeMismatch {
        /// The tensor's name.
        name: String,
        /// Which numbers disagree.
        problem: String,
    },

    /// The key is taken by a weight or delta with different content.
    #[error(
        "`{key}` already holds different content, and weights are immutable; \
             delete it first or store under another key"
    )]
    Conflict {
        /// The key in question.
        key: WeightHash,
    },

    /// Stored content does not verify and is therefore not handed out.
    #[error(
        "the content of `{key}` is damaged: {problem}; restore the store from a backup, or remove what needs it, collect garbage and store it again"
    )]
    Damaged {
        /// The key whose content is damaged.
        key: WeightHash,
        /// What did not verify.
        problem: String,
    },

    /// A delta does not decode to a weight.
    #[error(
        "the delta to `{reference}` cannot be decoded: its `{field}` {problem}; \
             give it the reference it was made with, or restore it from a backup"
    )]
    Delta {
        /// The key of the reference that the delta names.
        reference: WeightHash,
        /// The field of the delta, or of its metadata, that is wrong.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    /// A chunk could not be taken through its filter pipeline.
    #[error("filter {filter}: {problem}; the chunk is damaged or its filter settings are wrong")]
    Filter {
        /// The filter that failed.
        filter: &'static str,
        /// What it found.
        problem: String,
    },

    /// Something that has to be there is not.
    #[error("{what} was not found; list what the store holds to see the names it knows")]
    NotFound {
        /// What was looked for.
        what: String,
    },

    /// A request that is well formed but that this crate or format cannot serve.
    #[error("not supported: {what}")]
    Unsupported {
        /// What was asked for and, where there is one, the alternative.
        what: String,
    },

    /// A dictionary (JSON object) does not describe what it should.
    #[error("the dictionary does not describe a {of}: {problem}; compare it with what `to_dict` returns")]
    InvalidDict {
        /// What it should have described, e.g. `Delta`.
        of: &'static str,
        /// The field that is missing or wrong.
        problem: String,
    },

    /// The caller asked for the operation to stop.
    #[error("cancelled on request; nothing of this operation was kept")]
    Cancelled,

    /// The store was used after `close`.
    #[error("the store is closed; open it again to go on")]
    Closed,

    /// A checkpoint of that name is there already.
    #[error("a checkpoint named `{name}` already exists; remove it first or give another name")]
    AlreadyExists {
        /// The name.
        name: String,
    },

    /// The text cannot name a checkpoint.
    #[error("`{name}` cannot name a checkpoint: {problem}; use 1 to 255 bytes of text without `/`")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A weight cannot be deleted while something needs it.
    #[error("`{key}` is needed by the {by}; remove that first")]
    InUse {
        /// The weight.
        key: WeightHash,
        /// What refers to it.
        by: String,
    },

    /// A checkpoint's record does not fit together.
    #[error("the checkpoint `{name}` is damaged: {problem}; restore the store from a backup or add the file again")]
    DamagedCheckpoint {
        /// The checkpoint.
        name: String,
        /// What does not agree.
        problem: String,
    },

    /// The file layer failed.
    #[error(transparent)]
    File(#[from] corallite_file::Error),
}

impl Error {
    /// Wraps an I/O error together with the path it is about.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Whether it is about one weight, which is damaged or cannot be understood, rather than about the store.
    pub(crate) fn is_of_one_weight(&self) -> bool {
        use corallite_file::Error as File;
        match self {
            Self::Damaged { .. } | Self::Filter { .. } | Self::ShapeMismatch { .. } | Self::Unsupported { .. } => true,
            Self::File(error) => matches!(error, File::Damaged { .. } | File::Hdf5 { .. }),
            _ => false,
        }
    }

    pub(crate) fn filter(filter: &'static str, problem: impl Into<String>) -> Self {
        Self::Filter { filter, problem: problem.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}
