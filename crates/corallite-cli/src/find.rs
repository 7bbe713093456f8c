//! Finding what a word on the command line names: a checkpoint, or a weight.

use corallite::Store;
use corallite::weights::{Checkpoint, Error, WeightHash, WeightStore};

use crate::exit::{Exit, Failure};

/// So many digits of a key at least, or the word is not taken for one.
const SHORTEST_PREFIX: usize = 6;

/// What a word names.
#[derive(Debug)]
pub(crate) enum Found {
    Checkpoint(Checkpoint),
    Weight(WeightHash),
}

/// What is called `what`: a checkpoint by its name; a weight by its key, the first digits of it, or as CHECKPOINT/TENSOR.
pub(crate) fn find(store: &Store, what: &str) -> Result<Found, Failure> {
    if let Some(checkpoint) = store.checkpoints().get(what)? {
        return Ok(Found::Checkpoint(checkpoint));
    }
    if let Some((checkpoint, tensor)) = what.split_once('/')
        && let Some(checkpoint) = store.checkpoints().get(checkpoint)?
    {
        let key = checkpoint.weight(tensor).ok_or_else(|| Error::NotFound {
            what: format!("the tensor `{tensor}` in the checkpoint `{}`", checkpoint.name()),
        })?;
        return Ok(Found::Weight(key.clone()));
    }
    if let Ok(key) = WeightHash::new(what) {
        if store.weights().exists(&key)? {
            return Ok(Found::Weight(key));
        }
        if what.len() >= SHORTEST_PREFIX {
            let prefix = what.to_ascii_lowercase();
            let mut matching = store.weights().list_weights()?;
            matching.retain(|key| key.as_str().starts_with(what) || key.as_str().starts_with(&prefix));
            if matching.len() > 1 {
                let sentence =
                    format!("{} weights have keys that begin with `{what}`; give more digits", matching.len());
                return Err(Failure::new(Exit::Name, sentence));
            }
            if let Some(key) = matching.pop() {
                return Ok(Found::Weight(key));
            }
        }
    }
    Err(Error::NotFound { what: format!("a checkpoint or weight `{what}`") }.into())
}
