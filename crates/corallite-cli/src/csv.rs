//! Lines of two fields: `key,value`, or with quotes `"a, b",value`.
//!
//! Nothing that a line holds is trusted: what is not exactly two fields with something in each is refused with a reason.

/// The longest line that is read.
pub(crate) const LONGEST: usize = 64 << 10;

/// The fields of a line; `None` for one that is blank or a comment.
pub(crate) fn pair(line: &[u8]) -> Result<Option<(String, String)>, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    // Some programs begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = field(text)?;
    let Some(rest) = rest.strip_prefix(',') else { return Err("it has no comma between a key and a value") };
    let (value, rest) = field(rest)?;
    match rest {
        "" if key.is_empty() => Err("its key is empty"),
        "" if value.is_empty() => Err("its value is empty"),
        "" => Ok(Some((key, value))),
        _ => Err("it has more than a key and a value; put a field that has commas into quotes"),
    }
}

/// The first field, and what follows it.
fn field(text: &str) -> Result<(String, &str), &'static str> {
    let text = text.trim_start();
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Ok((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let mut field = String::new();
    loop {
        let end = rest.find('"').ok_or("a quote is not closed on its line")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => break,
        }
    }
    match rest.trim_start() {
        rest if rest.is_empty() || rest.starts_with(',') => Ok((field, rest)),
        _ => Err("something follows a closing quote"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fields_are_a_pair() {
        let of = |line: &str| pair(line.as_bytes()).unwrap().unwrap();
        let both = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(of("a,b\n"), both("a", "b"));
        assert_eq!(of("  a b ,\tc\r\n"), both("a b", "c"));
        assert_eq!(of("\u{feff}a,b"), both("a", "b"));
        assert_eq!(of(r#""a, ""b""" , "c""#), both(r#"a, "b""#, "c"));
        assert_eq!(of("層,💾"), both("層", "💾"));
    }

    #[test]
    fn blank_lines_and_comments_are_skipped() {
        for line in ["", "\n", "  \r\n", "# a,b", "  # c"] {
            assert_eq!(pair(line.as_bytes()), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for line in ["a", "a,b,c", ",b", "a,", ",", r#""a,b"#, r#""a"b,c"#, r#""",b"#] {
            assert!(pair(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(pair(b"\xff,a").is_err());
    }
}
