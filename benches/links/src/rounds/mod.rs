//! What is run: a comparison of all engines in rounds, or one engine as it grows, outgrows its memory, is opened
//! again, or has nothing in memory.

pub(crate) mod cold;
pub(crate) mod compare;
mod concurrent;
mod gets;
pub(crate) mod growth;
pub(crate) mod larger_than_memory;
pub(crate) mod one;
pub(crate) mod reopen;
mod writes;

use std::io::{self, Write};

/// Says on standard error what is being done; standard output is for the report.
fn progress(message: &str) {
    // Without somebody to tell, the figures are still worth having.
    let _ = writeln!(io::stderr(), "{message}");
}
