//! How texts become index keys.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Lower case, without white space at the ends, with single spaces within.
///
/// ```
/// assert_eq!(corallite_objects::index::normalize("  Hello \n WORLD "), "hello world");
/// ```
pub fn normalize(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(word.chars().flat_map(char::to_lowercase));
    }
    normal
}

/// Without accents and other combining marks.
///
/// ```
/// assert_eq!(corallite_objects::index::no_accents("Café Übung"), "Cafe Ubung");
/// ```
pub fn no_accents(text: &str) -> String {
    text.nfd().filter(|c| !is_combining_mark(*c)).nfc().collect()
}

/// One word to look for: normalized, without accents, and without what is neither letter nor digit.
///
/// ```
/// assert_eq!(corallite_objects::index::keyword("«Déjà-vu!»"), "dejavu");
/// ```
pub fn keyword(text: &str) -> String {
    normalize(&no_accents(text)).chars().filter(|c| c.is_alphanumeric()).collect()
}

/// The words of texts that have at least so many characters, each once: as [`keyword`] makes them, split at what is neither
/// letter nor digit.
///
/// ```
/// assert_eq!(corallite_objects::index::keywords(["Fine-tuned on the Café data"], 3), ["cafe", "data", "fine", "the", "tuned"]);
/// ```
pub fn keywords<T: AsRef<str>>(texts: impl IntoIterator<Item = T>, min_length: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for text in texts {
        let plain = normalize(&no_accents(text.as_ref()));
        let parts = plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.extend(parts.filter(|word| word.chars().count() >= min_length).map(str::to_owned));
    }
    words.sort_unstable();
    words.dedup();
    words
}

/// A path and all that it lies in.
///
/// ```
/// assert_eq!(corallite_objects::index::paths("/models/bert/", "/"), ["models", "models/bert"]);
/// ```
pub fn paths(text: &str, separator: &str) -> Vec<String> {
    let parts: Vec<&str> = match separator {
        "" => vec![text],
        _ => text.split(separator).filter(|part| !part.is_empty()).collect(),
    };
    (1..=parts.len()).map(|count| parts[..count].join(separator)).collect()
}
