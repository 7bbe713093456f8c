//! Index entries as keys of a backend.
//!
//! `@index NUL collection NUL index NUL value NUL oid`. The value is written so that the order of the keys is that of
//! [`crate::types::compare`]: a digit for its kind, then
//!
//! | kind | |
//! |---|---|
//! | 0 null, 1 boolean | nothing, or `0` or `1` |
//! | 2 number | the floating-point number nearest to it as 16 hex digits, with its sign turned so that they are in order; then its distance from that, for whole numbers beyond 2^53 |
//! | 3 text | itself, with U+0000 and U+0001 escaped; from 480 bytes on cut there, U+0002 and its BLAKE3 |
//! | 4 list | its items, each ended by U+0001 |
//! | 5 map | its JSON, as a text |

use serde_json::Value;

use crate::key;

/// Bytes of a text that are in its key.
const LONGEST_TEXT: usize = 480;

/// Bytes by which keys are in the order of their values. A character that begins within them is in the key as a whole, also
/// where it is cut.
const ORDERED: usize = LONGEST_TEXT - 4;

/// What the entries of an index begin with.
pub(super) fn index_prefix(collection: &str, index: &str) -> String {
    format!("@index\0{collection}\0{index}\0")
}

/// The part of an entry's key that is its value.
pub(crate) fn value(value: &Value) -> String {
    cut(whole(value))
}

/// A value as it would be in a key of any length, in the order of which values are.
pub(super) fn whole(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value, 0);
    text
}

/// A whole value as it is in a key.
pub(super) fn cut(mut whole: String) -> String {
    if is_cut(&whole) {
        let hash = blake3::hash(whole.as_bytes()).to_hex();
        whole.truncate(floor(&whole, LONGEST_TEXT).len());
        whole.push('\u{2}');
        whole.push_str(&hash[..32]);
    }
    whole
}

/// Whether a value is cut in its key, or was.
pub(super) fn is_cut(part: &str) -> bool {
    part.len() > LONGEST_TEXT
}

/// What a value begins with beyond which its key may not be in order; `None` for one that is in order as a whole.
pub(super) fn beginning(part: &str) -> Option<&str> {
    (part.len() > ORDERED).then(|| floor(part, ORDERED))
}

/// At most so many bytes of a text, up to a character.
fn floor(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

fn put(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => text.push('0'),
        Value::Bool(value) => text.push_str(if *value { "11" } else { "10" }),
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or(0.0);
            // Zero has two signs and one place in the order.
            let bits = (float + 0.0).to_bits();
            let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
            text.push_str(&format!("2{ordered:016x}"));
            let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
            let rest = whole.map_or(0, |whole| whole - float as i128);
            if rest != 0 {
                // At most 2^11 away from the nearest float.
                text.push_str(&format!("{:04x}", 0x8000 + rest));
            } else if float.abs() >= 9_007_199_254_740_992.0 {
                text.push_str("8000");
            }
        }
        Value::String(string) => {
            text.push('3');
            escape(text, string);
        }
        Value::Array(items) if depth == 0 => {
            text.push('4');
            for item in items {
                put(text, item, depth + 1);
                text.push('\u{1}');
            }
        }
        other => {
            text.push('5');
            escape(text, &other.to_string());
        }
    }
}

fn escape(text: &mut String, string: &str) {
    if !string.contains(['\0', '\u{1}']) {
        text.push_str(string);
        return;
    }
    for c in string.chars() {
        match c {
            '\0' => text.push_str("\u{1}\u{2}"),
            '\u{1}' => text.push_str("\u{1}\u{3}"),
            c => text.push(c),
        }
    }
}

/// The value of a part made by [`value`]; of a text that was cut, its beginning and `…`. `None` for anything else.
pub(super) fn decode(part: &str) -> Option<Value> {
    let (kind, rest) = part.split_at_checked(1)?;
    Some(match kind {
        "0" => Value::Null,
        "1" => Value::Bool(rest == "1"),
        "2" => {
            let ordered = u64::from_str_radix(rest.get(..16)?, 16).ok()?;
            let float = f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered });
            let rest = match rest.get(16..20) {
                Some(rest) => i128::from(u32::from_str_radix(rest, 16).ok()?) - 0x8000,
                None => 0,
            };
            let whole = float as i128 + rest;
            match (i64::try_from(whole), u64::try_from(whole)) {
                (Ok(number), _) if float.fract() == 0.0 => number.into(),
                (_, Ok(number)) if float.fract() == 0.0 => number.into(),
                _ => serde_json::Number::from_f64(float).map_or(Value::Null, Value::Number),
            }
        }
        "3" => Value::String(text(rest)),
        "4" => {
            let items = items(rest);
            Value::Array(items.iter().map(|item| decode(item)).collect::<Option<_>>()?)
        }
        "5" => serde_json::from_str(&text(rest)).unwrap_or_else(|_| Value::String(text(rest))),
        _ => return None,
    })
}

/// The items of a list. U+0001 ends one, unless U+0002 or U+0003 follows, which make it an escape.
fn items(rest: &str) -> Vec<&str> {
    let (mut items, mut begin) = (Vec::new(), 0);
    for (at, _) in rest.match_indices('\u{1}') {
        if !rest[at + 1..].starts_with(['\u{2}', '\u{3}']) {
            items.push(&rest[begin..at]);
            begin = at + 1;
        }
    }
    items
}

fn text(rest: &str) -> String {
    let mut text = String::new();
    let mut rest = rest.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1}' => text.push(if rest.next() == Some('\u{2}') { '\0' } else { '\u{1}' }),
            '\u{2}' if rest.as_str().len() == 32 => {
                text.push('…');
                break;
            }
            c => text.push(c),
        }
    }
    text
}

/// The key of an entry, and its value: the oid where that is too long for the key, otherwise nothing.
pub(super) fn entry<'a>(prefix: &str, value: &str, oid: &'a str) -> (String, &'a [u8]) {
    let key = format!("{prefix}{value}\0{oid}");
    if key.len() <= key::LONGEST {
        return (key, &[]);
    }
    (format!("{prefix}{value}\0\u{1}{}", &blake3::hash(oid.as_bytes()).to_hex()[..32]), oid.as_bytes())
}

/// The value's part and the oid of an entry.
pub(super) fn split<'a>(prefix: &str, key: &'a str, value: &'a [u8]) -> Option<(&'a str, &'a str)> {
    let (part, oid) = key.strip_prefix(prefix)?.split_once('\0')?;
    if value.is_empty() { Some((part, oid)) } else { Some((part, std::str::from_utf8(value).ok()?)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::types::compare;

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-3i64..3).prop_map(Value::from),
            (-(1i64 << 53) - 3..-(1i64 << 53) + 3).prop_map(Value::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
            (-3i64..3).prop_map(|x| Value::from(x as f64 / 2.0)),
            "[\\x00-\\x03ab]{0,4}".prop_map(Value::from),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn keys_are_in_the_order_of_their_values(
            one in prop_oneof![scalar(), proptest::collection::vec(scalar(), 0..3).prop_map(Value::from)],
            other in prop_oneof![scalar(), proptest::collection::vec(scalar(), 0..3).prop_map(Value::from)],
        ) {
            let keys = [&one, &other].map(|of| format!("{}\0", value(of)));
            let both_zero = [&one, &other].iter().all(|of| of.as_f64() == Some(0.0));
            if !both_zero && !matches!((&one, &other), (Value::Array(_), Value::Array(_))) {
                prop_assert_eq!(keys[0].cmp(&keys[1]), compare(&one, &other));
            }
            prop_assert_eq!(keys[0] == keys[1], compare(&one, &other).is_eq() || both_zero);
        }

        #[test]
        fn a_value_comes_back_from_its_key(one in scalar()) {
            let decoded = decode(&value(&one)).unwrap_or_default();
            prop_assert!(compare(&decoded, &one).is_eq() || one.as_f64() == Some(0.0), "{decoded} {one}");
        }
    }

    #[test]
    fn long_texts_are_told_apart_by_what_was_cut() {
        let long = "x".repeat(2000);
        let (one, other) = (value(&json!(long.clone() + "a")), value(&json!(long + "b")));
        assert!(one.len() < 600 && one != other);
        assert_eq!(decode(&value(&json!(["a\0", 3, "b\u{1}"]))), Some(json!(["a\0", 3, "b\u{1}"])));
    }
}
