//! The commands, one to a file.

pub(crate) mod add;
pub(crate) mod backup;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod export_objects;
pub(crate) mod find;
pub(crate) mod gc;
pub(crate) mod get_file;
pub(crate) mod import_objects;
pub(crate) mod info;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod load_links;
pub(crate) mod log;
pub(crate) mod ls;
pub(crate) mod migrate;
pub(crate) mod put_file;
pub(crate) mod repack;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod rollback;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod tag;
pub(crate) mod unlink;
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
        Command::Diff(arguments) => diff::run(&arguments, output),
        Command::Export(arguments) => export::run(&arguments, output),
        Command::Rm(arguments) => rm::run(arguments, output),
        Command::Gc(arguments) => gc::run(&arguments, output),
        Command::Tag(arguments) => tag::run(&arguments, output),
        Command::Set(arguments) => set::run(&arguments, output),
        Command::Find(arguments) => find::run(&arguments, output),
        Command::PutFile(arguments) => put_file::run(&arguments, output),
        Command::GetFile(arguments) => get_file::run(&arguments, output),
        Command::ExportObjects(arguments) => export_objects::run(&arguments, output),
        Command::ImportObjects(arguments) => import_objects::run(&arguments, output),
        Command::Info(arguments) => info::run(&arguments, output),
        Command::Stats(arguments) => stats::run(&arguments, output),
        Command::Verify(arguments) => verify::run(&arguments, output),
        Command::Log(arguments) => log::run(&arguments, output),
        Command::Rollback(arguments) => rollback::run(&arguments, output),
        Command::Link(arguments) => link::run(&arguments, output),
        Command::Unlink(arguments) => unlink::run(&arguments, output),
        Command::Links(arguments) => links::run(&arguments, output),
        Command::LoadLinks(arguments) => load_links::run(&arguments, output),
        Command::Migrate(arguments) => migrate::run(&arguments, output),
        Command::Backup(arguments) => backup::run(&arguments, output),
        Command::Repack(arguments) => repack::run(&arguments, output),
        Command::Restore(arguments) => restore::run(&arguments, output),
        Command::Completions(arguments) => completions::run(&arguments, output),
    }
}
