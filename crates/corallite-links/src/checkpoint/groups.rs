//! The groups that a compaction makes anew.

use corallite_file::{Storage, Transaction};

use crate::error::{Error, Result};

/// The groups that a compaction makes anew, and what the links' members of them are called after.
pub(super) const RENEWED: [(&str, &str); 3] =
    [(Storage::BUCKETS_GROUP, ""), (Storage::VALUES_GROUP, ""), (DIRECTORY_GROUP, "shard_")];
pub(super) const DIRECTORY_GROUP: &str = "/dir";

/// The name that a group has until it takes the place of the old one.
pub(super) fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Begins groups anew where nothing but links is in them: what libhdf5 keeps of a group lies wherever the end of the file was
/// when it grew. The old ones go last, so that nothing is put into the room that they give back. Says which.
pub(super) fn begin_groups(transaction: &Transaction<'_>) -> Result<Vec<&'static str>> {
    let explain = |error| Error::from(transaction.explain("renew the links' groups", &error));
    let file = transaction.file();
    let mut renewed = Vec::new();
    for (name, prefix) in RENEWED {
        let Ok(group) = file.group(name) else { continue };
        let is_ours = |name: &String| {
            name.strip_prefix(prefix).is_some_and(|id| id.len() == 8 && u32::from_str_radix(id, 16).is_ok())
        };
        if group.member_names().map_err(explain)?.iter().all(is_ours) {
            file.create_group(&new_name(name)).map_err(explain)?;
            renewed.push(name);
        }
    }
    Ok(renewed)
}

/// Puts the new groups into the places of the old ones.
pub(super) fn end_groups(transaction: &Transaction<'_>, renewed: &[&str]) -> Result<()> {
    let explain = |error| Error::from(transaction.explain("renew the links' groups", &error));
    let file = transaction.file();
    for name in renewed {
        let new = new_name(name);
        if *name == DIRECTORY_GROUP && file.group(&new).map_err(explain)?.is_empty() {
            file.unlink(&new).map_err(explain)?;
            continue;
        }
        if file.link_exists(name) {
            file.unlink(name).map_err(explain)?;
        }
        file.relink(&new, name).map_err(explain)?;
    }
    Ok(())
}
