//! What happens to processes, disks and files, and what the backends make of it.

#![cfg(feature = "dbm")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod dbm;
mod directory;
mod kill;
mod mirrors;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use corallite_objects::backend::{Backend, Change, DbmBackend, DirectoryBackend, Durability, Expect};

/// In memory where there is such a place: what a killed process wrote is there as well, and no slow disk is waited for.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens the kind of backend.
fn open(kind: &str, place: &Path) -> corallite_objects::Result<Arc<dyn Backend>> {
    Ok(match kind {
        "directory" => Arc::new(DirectoryBackend::open(place.join("directory"))?),
        _ => Arc::new(DbmBackend::open(place.join("file.dbm"))?),
    })
}

/// Bytes that say whose they are.
fn noise(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31).wrapping_add(seed * 7 + at / 256)) as u8).collect()
}

/// A document of some length.
fn document(number: usize) -> Vec<u8> {
    format!("{{\"number\":{number},\"text\":\"{}\"}}", format!("{number} ").repeat(number % 700)).into_bytes()
}

fn put<'a>(key: &'a str, value: &'a [u8]) -> Change<'a> {
    Change { key, value: Some(value), expect: Expect::Anything }
}

fn put_stream(backend: &dyn Backend, key: &str, bytes: &[u8]) -> corallite_objects::Result<()> {
    let mut stream = backend.write_stream(key)?;
    std::io::Write::write_all(&mut stream, bytes).unwrap();
    stream.finish(Durability::Durable)
}

fn stream(backend: &dyn Backend, key: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    backend.read_stream(key).unwrap()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

/// This test program, to run one of its ignored tests in a process of its own.
fn child(test: &str, kind: &str, place: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.env("CORALLITE_CHILD", place).env("CORALLITE_KIND", kind);
    command
}

/// What a child was started for; `None` when a person runs ignored tests.
fn task() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var("CORALLITE_KIND").ok()?, std::env::var_os("CORALLITE_CHILD")?.into()))
}
