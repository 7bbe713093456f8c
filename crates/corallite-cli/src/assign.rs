//! `key=value` on the command line: properties of checkpoints and files.

use corallite::objects::Reference;
use corallite::{CHECKPOINT, FIXED, Store};
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure};
use crate::text::shortened;

/// How far a key may lead into maps.
const DEEPEST: usize = 32;

/// Reads `key=value`: the value as JSON where it is some, else as text; nothing clears the property. A key may lead into a
/// map: `metrics.loss=0.25`.
pub(crate) fn parse(assignments: &[String]) -> Result<Vec<(String, Value)>, Failure> {
    let one = |text: &String| {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::new(Exit::Usage, format!("`{text}` sets nothing; write it as KEY=VALUE")))?;
        if key.split('.').any(str::is_empty) || key.split('.').count() > DEEPEST {
            let sentence = format!("`{}` is no name of a property; write NAME, or NAME.FIELD", shortened(key, 60));
            return Err(Failure::new(Exit::Usage, sentence));
        }
        let value = if value.is_empty() { Value::Null } else { json_or_text(value).ok_or_else(|| no_number(text))? };
        Ok((key.to_owned(), value))
    };
    assignments.iter().map(one).collect()
}

/// `None` for what looks like a number and cannot be kept as one.
fn json_or_text(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(_) if text.parse::<f64>().is_ok_and(|number| !number.is_finite()) => None,
        Err(_) => Some(text.into()),
    }
}

fn no_number(text: &str) -> Failure {
    let sentence =
        format!("`{text}` is no finite number; put quotes around it within the shell's to keep it as a text");
    Failure::new(Exit::Usage, sentence)
}

/// The properties that assignments make of those that were there.
pub(crate) fn apply(
    assignments: Vec<(String, Value)>,
    stored: impl Fn(&str) -> Option<Value>,
) -> Result<Map<String, Value>, Failure> {
    let mut changed = Map::new();
    for (key, value) in assignments {
        let (name, path) = key.split_once('.').map_or((key.as_str(), None), |(name, path)| (name, Some(path)));
        let Some(path) = path else {
            changed.insert(key, value);
            continue;
        };
        let mut whole = changed.get(name).cloned().or_else(|| stored(name)).filter(|whole| !whole.is_null());
        put(whole.get_or_insert_with(|| json!({})), path, value)
            .map_err(|()| Failure::new(Exit::Usage, format!("`{key}` cannot be set: what it lies in is no map")))?;
        changed.insert(name.to_owned(), whole.unwrap_or_default());
    }
    Ok(changed)
}

fn put(into: &mut Value, path: &str, value: Value) -> Result<(), ()> {
    let map = into.as_object_mut().ok_or(())?;
    match path.split_once('.') {
        Some((name, rest)) => put(map.entry(name).or_insert_with(|| json!({})), rest, value),
        None => {
            match value {
                Value::Null => map.remove(path),
                value => map.insert(path.to_owned(), value),
            };
            Ok(())
        }
    }
}

/// Properties of a checkpoint from those of the command line: a parent is given by its name.
pub(crate) fn of_checkpoint(
    store: &Store,
    of: Option<&str>,
    mut properties: Map<String, Value>,
) -> Result<Value, Failure> {
    if let Some(name) = properties.keys().find(|name| FIXED.contains(&name.as_str()) || *name == "weights") {
        let sentence = format!("`{name}` says what the checkpoint is, and cannot be set");
        return Err(Failure::new(Exit::Usage, sentence));
    }
    if let Some(Value::Array(tags)) = properties.get_mut("tags") {
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| seen.insert(tag.to_string()));
        if tags.iter().any(|tag| tag == "") {
            return Err(Failure::new(Exit::Usage, "a tag cannot be empty; give it a text"));
        }
    }
    if let Some(parent) = properties.get_mut("parent").filter(|parent| !parent.is_null()) {
        let sentence = "`parent` is the name of a checkpoint, and has no fields";
        let name = parent.as_str().ok_or_else(|| Failure::new(Exit::Usage, sentence))?.to_owned();
        if Some(name.as_str()) == of {
            return Err(Failure::new(Exit::Usage, format!("`{name}` cannot be its own parent")));
        }
        if !store.objects()?.has(CHECKPOINT, &name).map_err(corallite::Error::from)? {
            return Err(corallite::weights::Error::NotFound { what: format!("the checkpoint `{name}`") }.into());
        }
        *parent = json!(Reference::new(CHECKPOINT, name));
    }
    Ok(Value::Object(properties))
}

/// A value for people.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(map) => match (map.get("oid").and_then(Value::as_str), map.get("type").and_then(Value::as_str)) {
            (Some(oid), Some(_)) if map.len() == 2 => oid.to_owned(),
            _ => map.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>().join(" "),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(assignments: &[&str], stored: Value) -> Value {
        let texts: Vec<String> = assignments.iter().map(|text| (*text).to_owned()).collect();
        Value::Object(apply(parse(&texts).unwrap(), |name| stored.get(name).cloned()).unwrap())
    }

    #[test]
    fn values_are_json_where_they_can_be_and_text_else() {
        let found = set(&["loss=1.5", "note=hello world", "tags=[\"a\"]", "zero=007", "gone=", "eq=a=b"], json!({}));
        let wanted =
            json!({"loss": 1.5, "note": "hello world", "tags": ["a"], "zero": "007", "gone": null, "eq": "a=b"});
        assert_eq!(found, wanted);
        for refused in
            ["=1", "loss", "a.=1", ".a=1", "a..b=1", "loss=1e999", "loss=NaN", &format!("{}x=1", "k.".repeat(60_000))]
        {
            assert!(parse(&[refused.to_owned()]).is_err(), "{refused:.40}");
        }
        assert_eq!(set(&["loss=\"NaN\""], json!({})), json!({"loss": "NaN"}));
    }

    #[test]
    fn a_key_may_lead_into_a_map() {
        let stored = json!({"metrics": {"loss": 2, "old": 1}, "name": "x"});
        let found = set(&["metrics.loss=1", "metrics.deep.er=3", "metrics.old="], stored.clone());
        assert_eq!(found, json!({"metrics": {"loss": 1, "deep": {"er": 3}}}));
        let refused = apply(parse(&["name.first=1".to_owned()]).unwrap(), |name| stored.get(name).cloned());
        assert!(refused.is_err());
    }
}
