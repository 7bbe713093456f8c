//! Checking every byte of a store.

use super::stored::Stored;
use super::write::{Watch, stop_if_cancelled};
use super::{DELTAS, Hdf5Store, WEIGHTS, deltas, keys};
use crate::error::{Error, Result};
use crate::hash::WeightHash;

/// What [`Hdf5Store::verify`] found.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// Weights whose every byte was checked against a content hash.
    pub verified: u64,
    /// Weights that could be read and decoded, but carry no hash of their content (keys of a caller's, in files written
    /// elsewhere).
    pub unverifiable: u64,
    /// Bytes of tensors read.
    pub bytes: u64,
    /// What is damaged, and how.
    pub damaged: Vec<Damage>,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// `weight`, `delta`, `checkpoint` or `file`.
    pub kind: &'static str,
    /// Its key or name.
    pub name: String,
    /// A tensor's name, where it is known.
    pub label: Option<String>,
    /// What does not agree.
    pub problem: String,
}

impl Hdf5Store {
    /// Reads every weight and delta, decodes every chunk and checks every hash.
    ///
    /// # Errors
    ///
    /// Only what keeps it from going on, such as [`Error::Cancelled`]; damage is reported in the result.
    pub fn verify(&self, watch: &dyn Watch) -> Result<Verification> {
        let snapshot = self.snapshot()?;
        let mut found = Verification::default();
        let damage = |kind, key: &WeightHash, label, error: &Error| {
            let problem = match error {
                Error::Damaged { problem, .. } => problem.clone(),
                other => other.to_string(),
            };
            Damage { kind, name: key.to_string(), label, problem }
        };
        for (kind, parent) in [("weight", WEIGHTS), ("delta", DELTAS)] {
            let keys = match keys(&snapshot, parent) {
                Ok(keys) => keys,
                Err(error) => {
                    found.damaged.push(Damage {
                        kind: "file",
                        name: format!("/{parent}"),
                        label: None,
                        problem: error.to_string(),
                    });
                    continue;
                }
            };
            for key in keys {
                stop_if_cancelled(watch)?;
                match Stored::find_below(snapshot.as_ref(), snapshot.file(), parent, &key, 0) {
                    Ok(None) if kind == "delta" => {
                        if let Err(error) = deltas::load(&snapshot, &key) {
                            found.damaged.push(damage(kind, &key, None, &error));
                        }
                    }
                    Ok(None) => {}
                    Ok(Some(stored)) => {
                        found.bytes += stored.length;
                        match stored.verify(snapshot.as_ref()) {
                            Ok(()) if stored.is_verifiable() => found.verified += 1,
                            Ok(()) => found.unverifiable += 1,
                            Err(error) => {
                                let name = stored.metadata().name.clone();
                                found.damaged.push(damage("weight", &key, Some(name), &error));
                            }
                        }
                        watch.advance(stored.length);
                    }
                    Err(error) => found.damaged.push(damage(kind, &key, None, &error)),
                }
            }
        }
        if let Some(problem) = self.storage.trailer_problem()? {
            found.damaged.push(Damage { kind: "file", name: "trailer".to_owned(), label: None, problem });
        }
        Ok(found)
    }
}
