//! The only place that writes to the terminal.
//!
//! A command's report goes to standard output in one piece, after the work is done and durable. Everything else (errors,
//! warnings, progress) goes to standard error. A reader that went away is no error: there is nobody to tell.

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::text::{Paint, one_line};

/// Where a command's words go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether only what was asked for is to be printed.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints what was asked for: as JSON, or as the text that `render` makes.
    pub(crate) fn report(self, report: &impl Serialize, render: impl FnOnce(Paint) -> String) -> Result<(), Failure> {
        let text = if self.json {
            let fail = |error: serde_json::Error| Failure::new(Exit::Io, format!("cannot print this as JSON: {error}"));
            serde_json::to_string_pretty(report).map_err(fail)? + "\n"
        } else {
            render(Paint::for_terminal(io::stdout().is_terminal()))
        };
        self.raw(text.as_bytes())
    }

    /// Prints what was done; with `--quiet` only as JSON.
    pub(crate) fn done(self, report: &impl Serialize, render: impl FnOnce(Paint) -> String) -> Result<(), Failure> {
        if self.quiet && !self.json { Ok(()) } else { self.report(report, render) }
    }

    /// Writes bytes to standard output.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                let sentence = format!("cannot write to standard output: {error}; the command itself is done");
                Err(Failure::new(Exit::Io, sentence))
            }
            _ => Ok(()),
        }
    }

    /// Says on standard error why the command failed, on one line.
    pub(crate) fn error(self, sentence: &str) {
        self.line(|paint| format!("{} {}", paint.red("error:"), one_line(sentence)));
    }

    /// Says on standard error what the user should know although the command worked.
    pub(crate) fn warning(self, sentence: &str) {
        if !self.quiet {
            self.line(|paint| format!("{} {}", paint.yellow("warning:"), one_line(sentence)));
        }
    }

    /// Says on standard error how far the work is, for the program that asked for it.
    pub(crate) fn progress(self, text: &str) {
        self.line(|_| text.to_owned());
    }

    fn line(self, render: impl FnOnce(Paint) -> String) {
        let mut err = io::stderr().lock();
        let line = render(Paint::for_terminal(err.is_terminal()));
        // When standard error is gone, the exit code is all that is left to say.
        let _ = writeln!(err, "{line}");
    }
}
