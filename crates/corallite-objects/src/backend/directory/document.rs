//! What is in the file of a value.
//!
//! Compact JSON is written with line breaks, for people, and read back compact. JSON that a person wrote with other spaces
//! is read as it is there. Everything else follows a line that says how long it is. So every value is read back byte for
//! byte, and a file that was cut short is noticed.

use serde::de::IgnoredAny;

/// What begins a file whose value is no compact JSON; its length and a line break follow.
const BYTES: &[u8] = b"#bytes ";

/// The deepest nesting that is indented.
const DEEPEST: usize = 64;

/// What the file of a value has to hold.
pub(super) fn encode(value: &[u8]) -> Vec<u8> {
    if is_json(value) && compact(value).len() == value.len() {
        return pretty(value).unwrap_or_else(|| value.to_vec());
    }
    let mut file = format!("#bytes {}\n", value.len()).into_bytes();
    file.extend_from_slice(value);
    file
}

/// The value of a file, or what is wrong with it.
pub(super) fn decode(file: Vec<u8>) -> Result<Vec<u8>, String> {
    if let Some(rest) = file.strip_prefix(BYTES) {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let length: Option<usize> = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok()?.parse().ok());
        let (Some(end), Some(length)) = (end, length) else { return Err("its first line says no length".to_owned()) };
        let value = &rest[end + 1..];
        return match value.len() {
            found if found == length => Ok(value.to_vec()),
            found => Err(format!("it has {found} bytes after its first line, which says {length}")),
        };
    }
    if !is_json(&file) {
        return Err(match file.is_empty() {
            true => "it is empty".to_owned(),
            false => "it is not JSON (any more)".to_owned(),
        });
    }
    let value = compact(&file);
    Ok(if pretty(&value).is_some_and(|pretty| pretty == file) { value } else { file })
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// JSON without the spaces between its tokens. Numbers and strings stay as they are.
fn compact(json: &[u8]) -> Vec<u8> {
    let mut compact = Vec::with_capacity(json.len());
    each(json, |byte, is_text| {
        if is_text || !byte.is_ascii_whitespace() {
            compact.push(byte);
        }
    });
    compact
}

/// Compact JSON with line breaks, as [`serde_json::to_vec_pretty`] sets them, and one at its end. `None` where that would
/// be much longer: nested deeply, or in very short lines.
fn pretty(compact: &[u8]) -> Option<Vec<u8>> {
    let most = compact.len() * 8 + 1_024;
    let mut pretty = Vec::with_capacity(compact.len() * 2);
    // Whether nothing followed the last bracket yet.
    let (mut depth, mut is_opened) = (0_usize, false);
    let line = |pretty: &mut Vec<u8>, depth: usize| {
        pretty.push(b'\n');
        pretty.resize(pretty.len() + depth * 2, b' ');
    };
    let mut fits = true;
    each(compact, |byte, is_text| {
        fits &= depth <= DEEPEST && pretty.len() <= most;
        if !fits {
            return;
        }
        if !is_text && matches!(byte, b'}' | b']') {
            depth = depth.saturating_sub(1);
            if !is_opened {
                line(&mut pretty, depth);
            }
        } else if is_opened {
            line(&mut pretty, depth);
        }
        pretty.push(byte);
        is_opened = !is_text && matches!(byte, b'{' | b'[');
        match byte {
            _ if is_text => {}
            b'{' | b'[' => depth += 1,
            b',' => line(&mut pretty, depth),
            b':' => pretty.push(b' '),
            _ => {}
        }
    });
    pretty.push(b'\n');
    fits.then_some(pretty)
}

/// Calls with every byte, and whether it belongs to a text.
fn each(json: &[u8], mut visit: impl FnMut(u8, bool)) {
    let (mut is_text, mut is_escaped) = (false, false);
    for &byte in json {
        let is_quote = byte == b'"' && !is_escaped;
        visit(byte, is_text || is_quote);
        is_escaped = is_text && byte == b'\\' && !is_escaped;
        is_text ^= is_quote;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compact_json_is_written_as_serde_json_would_for_people() {
        for json in [
            r#"{"a":[1,{"b":[]},{},[[]],"x, y: {\"}"],"c":null}"#,
            "[]",
            "{}",
            "[[],[]]",
            "1",
            r#""a\\""#,
            r#"{"":{"":{}}}"#,
            "[1,[2,3],4]",
        ] {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let want = serde_json::to_string_pretty(&value).unwrap() + "\n";
            assert_eq!(String::from_utf8(encode(json.as_bytes())).unwrap(), want);
            assert_eq!(decode(want.into_bytes()).unwrap(), json.as_bytes());
        }
    }

    #[test]
    fn what_a_person_wrote_is_read_as_it_is() {
        for file in ["{ \"a\": 1 }", "{\"a\":1}", "\r\n{\r\n\"a\" : 1}\r\n", "[1,\n2]"] {
            assert_eq!(decode(file.into()).unwrap(), file.as_bytes());
        }
    }

    #[test]
    fn a_file_cut_short_is_noticed() {
        for value in [r#"{"a":[1,2],"b":"text"}"#, "", "no JSON", "{ \"a\": 1 }", "[[[]]]"] {
            let file = encode(value.as_bytes());
            // Without its last line break it is as a person could have written it.
            for length in 0..file.len() - 1 {
                if let Ok(found) = decode(file[..length].to_vec()) {
                    panic!("{length} bytes of {value:?} are read as {:?}", String::from_utf8_lossy(&found));
                }
            }
        }
    }

    #[test]
    fn what_would_become_much_longer_is_left_as_it_is() {
        let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
        assert_eq!(encode(deep.as_bytes()), deep.as_bytes());
        assert_eq!(decode(deep.clone().into_bytes()).unwrap(), deep.as_bytes());
    }

    proptest! {
        #[test]
        fn every_value_is_read_back_byte_for_byte(value in r#"([{}\[\]:, \n"\\a1]|"a"|\{"a":1\}|#bytes 1){0,40}"#) {
            prop_assert_eq!(decode(encode(value.as_bytes())).unwrap(), value.as_bytes());
        }
    }
}
