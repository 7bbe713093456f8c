//! Long work: its progress bar, and the signals that stop it.
//!
//! The first SIGINT or SIGTERM asks the work to stop, which takes it back; the second ends the process at once, which
//! the store survives as it survives `kill -9`.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corallite::weights::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Work that can be watched and stopped. Made before the store is opened, so that no signal finds it half-way.
#[derive(Debug)]
pub(crate) struct Work {
    stopped: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Work {
    /// From here on signals stop the work instead of ending the process.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let stopped = Arc::new(AtomicBool::new(false));
        let register = || {
            for signal in [SIGINT, SIGTERM] {
                // In this order: a signal that finds the flag set ends the process, the one that sets it does not.
                flag::register_conditional_shutdown(signal, i32::from(Exit::Interrupted as u8), Arc::clone(&stopped))?;
                flag::register(signal, Arc::clone(&stopped))?;
            }
            // A file size limit is to be an error like a full disk, not the end of the process.
            flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        };
        register().map_err(|error| Failure::io("cannot listen to signals", &error))?;
        Ok(Self { stopped, bar: ProgressBar::hidden() })
    }

    /// Shows a bar on standard error, when that is a terminal, until `total` bytes are dealt with.
    pub(crate) fn show(&mut self, output: &Output, doing: &'static str, total: u64) {
        if output.is_quiet() {
            return;
        }
        self.bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{prefix} {bar:32} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {msg}";
        // The template is a constant that a test renders; the plain bar serves if it should ever be wrong.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        self.bar.set_prefix(doing);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    /// Shows how much was dealt with, of an amount that nobody knows.
    pub(crate) fn show_flow(&mut self, output: &Output, doing: &'static str) {
        self.show(output, doing, 0);
        let template = "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec} {msg}";
        // As above.
        self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()));
    }

    /// A file that is read for the work: what is read counts as dealt with, and reading ends when the work is to stop.
    pub(crate) fn reader(&self, file: File) -> impl Read + Send + use<> {
        WatchedFile { file, stopped: Arc::clone(&self.stopped), bar: self.bar.clone() }
    }

    /// Says what is being worked on, beside the bar.
    pub(crate) fn on(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

struct WatchedFile {
    file: File,
    stopped: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Read for WatchedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.file.read(buffer)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}

impl Watch for Work {
    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_s_template_is_understood() {
        let output = Output::new(false, false);
        let mut work = Work { stopped: Arc::default(), bar: ProgressBar::hidden() };
        work.show(&output, "adding", 100);
        work.show_flow(&output, "loading");
        work.advance(40);
        assert_eq!(work.bar.position(), 40);
        assert!(!work.is_cancelled());
        work.stopped.store(true, Ordering::Relaxed);
        assert!(work.is_cancelled());
    }
}
