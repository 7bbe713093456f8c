//! The command line: its commands, and the help that teaches them.

use clap::{Parser, Subcommand};

use crate::command::{
    add, backup, completions, diff, export, export_objects, find, gc, get_file, import_objects, info, link, links,
    load_links, log, ls, migrate, put_file, repack, restore, rm, rollback, set, show, stats, tag, unlink, verify,
};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  damage was found: by verify, or in what a command had to read
    2  the command line is wrong
    3  an input file is bad or cannot be read
    4  the store cannot be used: missing, no store, newer, damaged, or not writable
    5  the store is busy: another program is writing it
    6  a name is not there, or is taken already
    7  the disk is full or failed
    8  diff --exit-code: something differs
  130  interrupted; the store is as it was before (load-links, import-objects, repack: with the part that was durable)

Examples:
  corallite add models.h5 base.safetensors tuned.safetensors
  corallite ls models.h5
  corallite show models.h5 base
  corallite diff models.h5 base tuned
  corallite export models.h5 tuned -o out.safetensors
  corallite info models.h5 --json | jq .ratio
  corallite tag models.h5 tuned best
  corallite find models.h5 Checkpoint 'tags = \"best\"' --sort -created
  corallite put-file models.h5 tokenizer.json
  corallite link models.h5 base apache-2.0
  corallite links models.h5 base
  corallite backup models.h5 backup.h5";

/// Keeps model checkpoints, what is known about them, and links between anything, in one HDF5 file
///
/// A store is one ordinary HDF5 file that any HDF5 reader opens without a plugin. Checkpoints go in as safetensors
/// files and come out byte for byte; a weight that several of them share is stored once. Tags, metrics and other properties
/// say what they are and find them again; files of any kind lie beside them. Links relate ids to sets of ids: models to
/// licences, runs to files, anything to anything. What a command changes (of load-links and import-objects, each batch) is there
/// whole or not at all, also after `kill -9` or a power cut.
#[derive(Debug, Parser)]
#[command(name = "corallite", version, arg_required_else_help = true, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print only what was asked for: no progress, no warnings, no report of what was done
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A command and its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(add::Arguments),
    Ls(ls::Arguments),
    Show(show::Arguments),
    Diff(diff::Arguments),
    Export(export::Arguments),
    Rm(rm::Arguments),
    Tag(tag::Arguments),
    Set(set::Arguments),
    Find(find::Arguments),
    PutFile(put_file::Arguments),
    GetFile(get_file::Arguments),
    ExportObjects(export_objects::Arguments),
    ImportObjects(import_objects::Arguments),
    Gc(gc::Arguments),
    Repack(repack::Arguments),
    Info(info::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
    Log(log::Arguments),
    Rollback(rollback::Arguments),
    Link(link::Arguments),
    Unlink(unlink::Arguments),
    Links(links::Arguments),
    LoadLinks(load_links::Arguments),
    Migrate(migrate::Arguments),
    Backup(backup::Arguments),
    Restore(restore::Arguments),
    Completions(completions::Arguments),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
