//! What the checks store.

use std::io::{Read, Write};

use bytes::Bytes;

use super::ok;
use crate::backend::{Backend, BackendExt, Change, Durability, Expect, Range};

/// Bytes that do not repeat soon.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Keys that file systems, databases and hasty code get wrong. None twice.
pub(super) fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "A",
        "aB",
        "Ab",
        "AB",
        "ab",
        "Account.x",
        "account.x",
        "ACCOUNT.x",
        "Account.X",
        "BlogPost.1",
        "Blogpost.1",
        "A.",
        "A.1",
        "A.10",
        "A.2",
        "A.1.2",
        "Ab.1",
        "A",
        ".",
        "..",
        "...",
        ".a",
        "a.",
        "a..",
        "a...",
        "..a",
        "a/b",
        "/",
        "//",
        "/etc/passwd",
        "../up",
        "../../up.x",
        "a.../../b",
        "a\\b",
        "C:\\x",
        "a:b",
        "a*b",
        "a?b",
        "a|b",
        "a<b>",
        "a\"b",
        "a'b",
        "a%b",
        "a%2fb",
        "a%41",
        "%",
        "%%",
        "%.",
        "+",
        "a+",
        "a+1",
        "a+1+",
        "a+.json",
        "a~1",
        "a^b",
        "a&b",
        "a.json",
        "a.data",
        "a.json.json",
        "x.a.json",
        "x.a.data",
        ".json",
        ".corallite",
        ".corallite.lock",
        "lost+found",
        "tmp-1",
        "CON",
        "con",
        "NUL.txt",
        "x.CON",
        "x.aux",
        "COM1",
        "x.LPT9.y",
        "a\0b",
        "\0",
        "\0\0",
        "a\n",
        "a\r\nb",
        "\t",
        " ",
        "a ",
        " a",
        "a .",
        "a. ",
        "x. ",
        "-",
        "--help",
        "-rf",
        "~",
        "$HOME",
        "`id`",
        "é",
        "e\u{301}",
        "É",
        "ß",
        "ss",
        "ſ",
        "ﬀ",
        "İ",
        "ı",
        "日本語.鍵",
        "🦀",
        "x.🦀🏳️‍🌈",
        "\u{202e}abc",
        "\u{feff}a",
        "\u{10ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "null",
        "true",
        "0",
        "00",
        "1e3",
        "a,b",
        "a;b",
        "a=b",
        "[a]",
        "{a}",
        "(a)",
        "#a",
        "@a",
        "!a",
    ]
    .map(str::to_owned)
    .into();
    keys.extend([300, 1_023, 1_024].map(|length| "k".repeat(length)));
    keys.extend([100, 101, 200, 254, 255, 256].map(|length| format!("Long.{}", "x".repeat(length))));
    keys.push(format!("Long.{}", "X".repeat(250)));
    keys.push(format!("{}.x", "C".repeat(400)));
    keys.push(format!("{}.x", "c".repeat(400)));
    keys.push(format!("Long.{}", "é".repeat(509)));
    keys.push("🦀".repeat(256));
    keys.push("/".repeat(1_024));
    keys.push(".".repeat(1_024));
    keys.sort();
    keys.dedup();
    keys
}

/// Values that an encoding gets wrong.
pub(super) fn odd_values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        "",
        " ",
        "\n",
        "\0",
        "{}",
        "[]",
        "{ }",
        "{}\n",
        "{\"a\":1}",
        "{\"a\": 1}",
        "{\"a\":1}\n",
        " {\"a\":1}",
        "{\n  \"a\": 1\n}",
        "{\n  \"a\": 1\n}\n",
        "{\"b\":1,\"a\":2}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1.0}",
        "{\"a\":1e400}",
        "{\"a\":100000000000000000000000000000001}",
        "{\"a\":-0}",
        "{\"a\":\"\\u0041\"}",
        "{\"a\":\"\\\"}{ ,:\"}",
        "{\"a\":\"x\\\\\"}",
        "{\"a\":[1,[],{},[[2]]]}",
        "[1,2]",
        "[\n  1,\n  2\n]\n",
        "1",
        "1\n",
        "\"text\"",
        "\"text\"\n",
        "null",
        "true",
        "text",
        "text\n",
        "{",
        "}",
        "{\"a\":",
        "{\"a\":1,}",
        "[1 2]",
        "\u{feff}{}",
        "#bytes 3\nabc",
        "#bytes 0\n",
        "#bytes",
        "#",
        "// {}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    values.push(vec![0xff, 0xfe, 0x00, 0x80]);
    values.push(b"{\"a\":\"\xff\"}".to_vec());
    values.push((0..=255).collect());
    values.push(format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes());
    values.push(format!("[{}1]", "1,".repeat(50_000)).into_bytes());
    values.push(format!("{{\"a\":\"{}\"}}", "x".repeat(100_000)).into_bytes());
    values
}

/// Sets a value, whatever there is.
pub(super) fn put(backend: &dyn Backend, key: &str, value: &[u8]) -> super::Outcome {
    let change = Change { key, value: Some(value), expect: Expect::Anything };
    ok(&format!("writing {key:?}"), backend.write(&[change], Durability::Buffered))
}

/// The value of a key.
pub(super) fn get(backend: &dyn Backend, key: &str) -> Result<Option<Bytes>, String> {
    ok(&format!("getting {key:?}"), backend.get(key))
}

/// The keys of a range.
pub(super) fn keys(backend: &dyn Backend, range: &Range) -> Result<Vec<String>, String> {
    ok("listing", backend.keys_in(range).and_then(|keys| keys.collect()))
}

/// The keys that begin with a prefix.
pub(super) fn keys_of(backend: &dyn Backend, prefix: &str) -> Result<Vec<String>, String> {
    ok("listing", backend.keys(prefix).and_then(|keys| keys.collect()))
}

/// All values.
pub(super) fn entries(backend: &dyn Backend) -> Result<Vec<(String, Bytes)>, String> {
    ok("listing values", backend.entries_in(&Range::default()).and_then(|entries| entries.collect()))
}

/// Stores a stream, in pieces.
pub(super) fn put_stream(backend: &dyn Backend, key: &str, bytes: &[u8], piece: usize) -> super::Outcome {
    let mut stream = ok(&format!("beginning stream {key:?}"), backend.write_stream(key))?;
    for piece in bytes.chunks(piece) {
        ok("writing a stream", stream.write_all(piece))?;
    }
    ok("finishing a stream", stream.finish(Durability::Buffered))
}

/// All of a stream.
pub(super) fn get_stream(backend: &dyn Backend, key: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(mut stream) = ok("opening a stream", backend.read_stream(key))? else { return Ok(None) };
    let mut bytes = Vec::new();
    ok("reading a stream", stream.read_to_end(&mut bytes))?;
    super::same("its length", stream.length(), bytes.len() as u64)?;
    Ok(Some(bytes))
}

/// The keys of the streams that begin with a prefix.
pub(super) fn streams(backend: &dyn Backend, prefix: &str) -> Result<Vec<String>, String> {
    ok("listing streams", backend.streams(prefix).and_then(|keys| keys.collect()))
}
