//! Files that are damaged, cut, or something else.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use corallite_objects::Error;
use corallite_objects::backend::{Backend, DbmBackend, Durability, Range};

use super::{document, noise, place, put, put_stream};

const VALUES: usize = 300;
const STREAM: usize = 400_000;

/// A file with values and a stream, closed.
fn file(place: &Path) -> PathBuf {
    let path = place.join("file.dbm");
    let backend = DbmBackend::open(&path).unwrap();
    for number in 0..VALUES {
        backend.write(&[put(&format!("A.{number:03}"), &document(number))], Durability::Buffered).unwrap();
    }
    put_stream(&backend, "F.1", &noise(STREAM, 1)).unwrap();
    backend.close().unwrap();
    path
}

/// Reads everything. Whatever is returned has to be what was written; what is missing or reported is counted.
fn read_all(backend: &DbmBackend, what: &str) -> (usize, usize) {
    let (mut missing, mut reported) = (0, 0);
    for number in 0..VALUES {
        match backend.get(&format!("A.{number:03}")) {
            Ok(Some(value)) => assert!(value == document(number), "{what}: value {number} is another"),
            Ok(None) => missing += 1,
            Err(_) => reported += 1,
        }
    }
    let mut listed = 0;
    for entry in backend.entries_in(&Range::default()).into_iter().flatten() {
        match entry {
            Ok((key, value)) => {
                let number = key.strip_prefix("A.").and_then(|number| number.parse().ok());
                assert!(number.is_some_and(|number| value == document(number)), "{what}: {key} is another");
                listed += 1;
            }
            Err(_) => reported += 1,
        }
    }
    missing += VALUES - listed;
    let mut bytes = Vec::new();
    match backend.read_stream("F.1") {
        Ok(Some(mut stream)) => match stream.read_to_end(&mut bytes) {
            Ok(_) => assert!(bytes == noise(STREAM, 1), "{what}: the stream is another"),
            Err(_) => reported += 1,
        },
        Ok(None) => missing += 1,
        Err(_) => reported += 1,
    }
    (missing, reported)
}

#[test]
fn a_flipped_bit_is_reported_or_harmless_and_never_returned() {
    let place = place();
    let path = file(place.path());
    let whole = fs::read(&path).unwrap();
    let (mut noticed, mut places) = (0, 0);
    let positions = (0..320).step_by(7).chain((320..whole.len()).step_by(whole.len() / 150));
    for (number, position) in positions.enumerate() {
        let what = format!("bit {} of byte {position}", number % 8);
        for is_checked in [false, true] {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << (number % 8);
            fs::write(&path, bytes).unwrap();
            let opened = if is_checked { DbmBackend::open_checked(&path) } else { DbmBackend::open(&path) };
            match opened {
                Ok(backend) => {
                    let (missing, reported) = read_all(&backend, &what);
                    assert!(!is_checked || missing + reported == 0, "{what}: the check found nothing");
                    noticed += usize::from(reported > 0);
                    let _ = backend.close();
                }
                Err(error) => {
                    assert!(error.to_string().contains("file.dbm"), "{what}: {error}");
                    noticed += 1;
                }
            }
            places += 1;
        }
    }
    assert!(noticed > places / 10, "{noticed} of {places} were noticed");
}

#[test]
fn a_file_cut_short_is_reported_and_never_returned_in_part() {
    let place = place();
    let path = file(place.path());
    let whole = fs::read(&path).unwrap();
    for length in [1, 8, 9, 100, 319, 320, 4_096, 10_000, whole.len() / 2, whole.len() - 4_096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let what = format!("{length} bytes of {}", whole.len());
        match DbmBackend::open(&path) {
            Ok(backend) => {
                let (missing, reported) = read_all(&backend, &what);
                assert!(missing == 0 || reported > 0, "{what}: {missing} are missing and nothing is said");
            }
            Err(error) => assert!(error.to_string().contains("file.dbm"), "{what}: {error}"),
        }
    }
}

#[test]
fn what_is_no_dbm_file_is_refused_and_left_as_it_is() {
    let place = place();
    let path = place.path().join("file.dbm");
    for content in [b"".as_slice(), b"SQLite format 3\0", b"{}", b"redb", &[0; 10_000]] {
        fs::write(&path, content).unwrap();
        let error = DbmBackend::open(&path).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("file.dbm") && text.contains("remove it to begin anew"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let error = DbmBackend::open(place.path()).unwrap_err().to_string();
    assert!(error.contains("it is a folder"), "{error}");
}

#[test]
fn what_is_left_of_an_interrupted_creation_is_in_nobodys_way() {
    let place = place();
    fs::write(place.path().join("file.dbm.new"), "half").unwrap();
    let backend = DbmBackend::open(file(place.path())).unwrap();
    assert_eq!(read_all(&backend, "a new file"), (0, 0));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
