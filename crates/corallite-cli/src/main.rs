//! The `corallite` command: adds, lists, shows, verifies and exports model weights in one HDF5 file.
//!
//! Each command is a file under `command/`. A command returns how it ended as an [`exit::Exit`] or an
//! [`exit::Failure`]; nothing but `output` writes to the terminal, nothing but `exit` decides on exit codes, and
//! nothing but `work` knows signals and progress bars.

mod assign;
mod cli;
mod command;
mod copy;
mod csv;
mod difference;
mod exit;
mod find;
mod histogram;
mod opened;
mod output;
mod place;
mod text;
mod values;
mod work;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version end here too. When nobody reads them any more there is nobody to tell.
            let _ = asked.print();
            return if asked.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let output = output::Output::new(cli.json, cli.quiet);
    match command::run(cli.command, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.error(failure.sentence());
            failure.exit().into()
        }
    }
}
