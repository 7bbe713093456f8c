//! Which file belongs to which key, and which key to a file.
//!
//! `Account.0190ab` is `Account/0190ab.json`: what is before the first dot is a folder, so that one can look around. A key
//! without a dot lies beside the folders. No two keys have names that a file system could take for one, nor a name that one
//! of them forbids:
//!
//! * letters, digits, `_`, `-` and dots inside stay; every other byte becomes `%` and two hex digits; nothing at all is `%`;
//! * small letters are usual, in a collection a capital first one. Where it is otherwise, `+` and a number in hex follow:
//!   its bit *n* says that character *n* is a capital. `BlogPost` is `BlogPost+11`;
//! * long ones continue in folders whose names end in `+`.
//!
//! A file belongs to a key only if it has exactly the key's name; every other file is foreign.

use std::path::{Path, PathBuf};

use crate::key;

/// The longest component without its mark and ending: with them it stays below the 143 bytes of eCryptfs.
const LONGEST: usize = 100;

/// Names that Windows keeps for devices, with any ending.
const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Value,
    Stream,
}

impl Kind {
    fn ending(self) -> &'static str {
        match self {
            Self::Value => ".json",
            Self::Stream => ".data",
        }
    }
}

/// The file of a key, below the root; `None` if there is no such key.
pub(super) fn file_of(key: &str, kind: Kind) -> Option<PathBuf> {
    key::check(key).ok()?;
    let (mut path, mut name) = match key.split_once('.') {
        Some((collection, rest)) => (folder_of(collection), encode(rest, false)),
        None => (PathBuf::new(), encode(key, false)),
    };
    let last = name.pop().unwrap_or_default();
    path.extend(name.into_iter().map(|part| part + "+"));
    path.push(last + kind.ending());
    Some(path)
}

/// The folder of a collection, below the root.
pub(super) fn folder_of(collection: &str) -> PathBuf {
    let mut parts = encode(collection, true);
    let last = parts.pop().unwrap_or_default();
    parts.into_iter().map(|part| part + "+").chain([last]).collect()
}

/// The key of a file below the root, if it is one's.
pub(super) fn key_of(path: &Path, kind: Kind) -> Option<String> {
    let mut key = Vec::new();
    let mut has_collection = false;
    for folder in path.parent()?.iter() {
        let folder = folder.to_str()?;
        decode(folder, &mut key)?;
        if !folder.ends_with('+') {
            key.push(b'.');
            has_collection = true;
        }
    }
    decode(path.file_name()?.to_str()?.strip_suffix(kind.ending())?, &mut key)?;
    let key = String::from_utf8(key).ok()?;
    // A folder too many puts a dot into what has none; so this is also the check of those.
    (key.contains('.') == has_collection && file_of(&key, kind)? == path).then_some(key)
}

/// The collection of a folder below the root, if it is one's.
pub(super) fn collection_of(path: &Path) -> Option<String> {
    let mut collection = Vec::new();
    for folder in path {
        decode(folder.to_str()?, &mut collection)?;
    }
    let collection = String::from_utf8(collection).ok()?;
    (folder_of(&collection) == path).then_some(collection)
}

fn encode(text: &str, is_collection: bool) -> Vec<String> {
    if text.is_empty() {
        return vec!["%".to_owned()];
    }
    let mut parts = Vec::new();
    let mut part = String::new();
    for byte in text.bytes() {
        if part.len() + 3 > LONGEST {
            parts.push(mark(std::mem::take(&mut part), is_collection));
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => part.push(char::from(byte)),
            b'.' if !part.is_empty() => part.push('.'),
            _ => part.push_str(&escape(byte)),
        }
    }
    parts.push(mark(part, is_collection));
    parts
}

fn escape(byte: u8) -> String {
    format!("%{byte:02x}")
}

/// Marks where the capitals are, and hides the names of devices.
fn mark(mut part: String, is_collection: bool) -> String {
    let stem = part.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let is_port = |stem: &str| stem.len() == 4 && (stem.starts_with("com") || stem.starts_with("lpt"));
    if RESERVED.contains(&stem.as_str()) || is_port(&stem) {
        part.replace_range(..1, &escape(part.as_bytes()[0]));
    }
    let is_capital = |(at, byte): (usize, u8)| u128::from(byte.is_ascii_uppercase()) << at;
    let capitals: u128 = part.bytes().enumerate().map(is_capital).sum();
    let usual = u128::from(is_collection && part.as_bytes()[0].is_ascii_alphabetic());
    if capitals == usual { part } else { format!("{part}+{capitals:x}") }
}

/// Appends what a part stands for. Other texts than [`encode`]'s are not noticed here.
fn decode(part: &str, key: &mut Vec<u8>) -> Option<()> {
    let part = part.split('+').next().filter(|part| *part != "%").unwrap_or_default();
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        key.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(bytes.next()?)? * 16 + digit(bytes.next()?)?).ok()?
            }
            byte => byte,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn shown(key: &str) -> String {
        file_of(key, Kind::Value).unwrap().display().to_string()
    }

    #[test]
    fn names_are_those_that_are_documented() {
        assert_eq!(shown("Account.0190ab"), "Account/0190ab.json");
        assert_eq!(shown("BlogPost.1"), "BlogPost+11/1.json");
        assert_eq!(shown("account.A"), "account+0/A+1.json");
        assert_eq!(shown("plain"), "plain.json");
        assert_eq!(shown(".."), "%/%2e.json");
        assert_eq!(shown("../up"), "%/%2e%2fup.json");
        assert_eq!(shown("X.con.txt"), "X/%63on.txt.json");
        assert_eq!(shown(&"x".repeat(150)), format!("{}+/{}.json", "x".repeat(98), "x".repeat(52)));
        assert_eq!(file_of("", Kind::Value), None);
    }

    #[test]
    fn a_foreign_name_belongs_to_no_key() {
        for name in
            ["A/B/c.json", "a.json.bak", "A.json", "a+0.json", "%2F.json", "%zz.json", "%6", "a/x.json", ".x.json"]
        {
            assert_eq!(key_of(Path::new(name), Kind::Value), None, "{name}");
        }
        for name in ["account", "Account+1", "a.b", ".corallite", "%41"] {
            assert_eq!(collection_of(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn keys_that_differ_in_case_only_have_names_that_differ_in_more() {
        let names: HashSet<String> =
            ["ab.cd", "Ab.cd", "aB.cd", "AB.cd", "ab.Cd", "ab.cD", "ab.CD", "Ab.CD", "ab", "aB", "AB"]
                .map(|key| shown(key).to_lowercase())
                .into();
        assert_eq!(names.len(), 11);
    }

    proptest! {
        #[test]
        fn a_key_is_found_again_from_its_name(key in r"[\PCaA.%+/\x00é]{1,300}") {
            prop_assume!(key.len() <= key::LONGEST);
            for kind in [Kind::Value, Kind::Stream] {
                let path = file_of(&key, kind).unwrap();
                prop_assert!(path.iter().all(|part| part.len() <= 143 && part.to_str().unwrap().is_ascii()));
                prop_assert_eq!(key_of(&path, kind), Some(key.clone()));
            }
            if let Some((collection, _)) = key.split_once('.') {
                prop_assert_eq!(collection_of(&folder_of(collection)), Some(collection.to_owned()));
            }
        }
    }
}
