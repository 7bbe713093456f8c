//! Who refers to what is removed, and what their relations say to that.

use std::sync::Arc;

use serde_json::Value;

use crate::backend::{Durability, Range};
use crate::class::{Class, OnRemove};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::index::{ObjectIndexes, Order};
use crate::key;
use crate::object::StoredObject;
use crate::reference::Reference;
use crate::save;
use crate::storage::Shared;

impl Shared {
    /// Whether there may be relations with an [`OnRemove`] other than `Keep` to a target.
    pub(crate) fn is_guarded(&self, target: &Reference) -> bool {
        self.classes().iter().flat_map(|class| class.relations.values()).any(|relation| relation.guards(target))
    }

    /// The objects whose relations forget a target that is removed, unless one refuses that. An object's relation to itself
    /// has no say. Nobody saves meanwhile.
    pub(crate) fn who_forgets(
        self: &Arc<Self>,
        target: &Reference,
        itself: Option<&StoredObject>,
    ) -> Result<Vec<(StoredObject, String)>> {
        let mut referrers = self.referrers(target)?;
        referrers.retain(|(referrer, _)| Some(referrer) != itself);
        let refuses = |(referrer, name): &&(StoredObject, String)| {
            referrer.class().relations.get(name).is_some_and(|relation| relation.on_remove == OnRemove::Refuse)
        };
        match referrers.iter().find(refuses) {
            Some((referrer, name)) => {
                Err(Error::Referred { key: target.key(), referrer: referrer.key(), relation: name.clone() })
            }
            None => Ok(referrers),
        }
    }

    /// Takes a target out of relations.
    pub(crate) fn forget_target(self: &Arc<Self>, of: &[(StoredObject, String)], target: &Reference) -> Result<()> {
        for (referrer, name) in of {
            // Only that: what else was changed in it is not ours to save. One that has changes keeps them unsaved, without
            // the target.
            let had_changes = referrer.is_changed();
            referrer.relation(name)?.remove(target)?;
            if !had_changes {
                save::save_held(self, std::slice::from_ref(referrer), Durability::Durable)?;
            }
        }
        Ok(())
    }

    /// The objects that refer to a target by a relation with an [`OnRemove`] other than `Keep`.
    fn referrers(self: &Arc<Self>, target: &Reference) -> Result<Vec<(StoredObject, String)>> {
        let mut found = Vec::new();
        for class in self.classes() {
            let declared = class.relations.iter().filter(|(_, relation)| relation.guards(target));
            let names: Vec<&String> = declared.map(|(name, _)| name).collect();
            if names.is_empty() {
                continue;
            }
            if let Some(keeper) = self.keeper.get() {
                let (shared, keeper) = (Arc::clone(self), Arc::clone(keeper));
                let indexes = ObjectIndexes { shared, keeper, class: Arc::clone(&class) };
                let key = Value::String(target.key());
                for name in names {
                    let by = indexes.by(&Class::referrers(name))?;
                    for oid in by.oids_between(Some(&key), Some(&key), Order::Ascending)? {
                        found.extend(self.load(&class, &oid?)?.map(|object| (object, name.clone())));
                    }
                }
                continue;
            }
            for entry in self.backend.entries_in(&Range::prefix(&key::prefix(class.collection())))? {
                let (key, bytes) = entry?;
                let Some((_, oid)) = key::split(&key) else { continue };
                let document = Document::from_bytes(&class, oid, &bytes, &|| self.backend.location())?;
                for name in &names {
                    let refers = document.relations.get(*name).is_some_and(|targets| targets.contains(target));
                    if refers && let Some(object) = self.load(&class, oid)? {
                        found.push((object, (*name).clone()));
                    }
                }
            }
        }
        Ok(found)
    }
}
