//! The commands, one to a file.

pub(crate) mod add;
pub(crate) mod completions;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod info;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod rm;
pub(crate) mod rollback;
pub(crate) mod show;
pub(crate) mod verify;

use crate::cli::Command;
use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Runs a command.
pub(crate) fn run(command: Command, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Add(arguments) => add::run(arguments, output),
        Command::Ls(arguments) => ls::run(&arguments, output),
        Command::Show(arguments) => show::run(&arguments, output),
        Command::Export(arguments) => export::run(&arguments, output),
        Command::Rm(arguments) => rm::run(arguments, output),
        Command::Gc(arguments) => gc::run(&arguments, output),
        Command::Info(arguments) => info::run(&arguments, output),
        Command::Verify(arguments) => verify::run(&arguments, output),
        Command::Log(arguments) => log::run(&arguments, output),
        Command::Rollback(arguments) => rollback::run(&arguments, output),
        Command::Completions(arguments) => completions::run(&arguments, output),
    }
}
