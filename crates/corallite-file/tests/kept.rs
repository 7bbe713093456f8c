//! Room that no dataset names, and bytes of a commit read without libhdf5.

use corallite_file::{Error, Mode, Options, Source, Storage};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn open() -> Outcome<Storage> {
    let storage = Storage::with_options(Source::Memory, Options::new().history(0));
    storage.open(Mode::Append, false)?;
    Ok(storage)
}

fn note(storage: &Storage, number: i64) -> Outcome {
    let group = storage.create_group("notes")?;
    group.new_attr::<i64>().create(format!("n{number}").as_str())?.write_scalar(&number)?;
    Ok(())
}

#[test]
fn kept_room_stays_until_it_is_given_back() -> Outcome {
    const LENGTH: u64 = 100 << 12;
    let storage = open()?;
    let offset = storage.transaction(|tx| -> Result<u64, Error> {
        let offset = tx.allocate(LENGTH)?;
        tx.write_at(offset, &[7; LENGTH as usize])?;
        assert!(matches!(tx.keep(offset, LENGTH - 1), Err(Error::Usage { .. })));
        tx.keep(offset, LENGTH)?;
        assert!(matches!(tx.keep(offset, LENGTH), Err(Error::Usage { .. })), "kept twice");
        Ok(offset)
    })?;
    for number in 0..5 {
        // Nobody else gets it.
        note(&storage, number)?;
        storage.transaction(|tx| -> Result<(), Error> {
            let other = tx.allocate(LENGTH)?;
            assert!(other + LENGTH <= offset || offset + LENGTH <= other);
            tx.write_at(other, &[1; LENGTH as usize])
        })?;
    }
    let mut bytes = [0; 8];
    storage.pages()?.read_at(offset + LENGTH - 8, &mut bytes)?;
    assert_eq!(bytes, [7; 8]);
    note(&storage, 5)?;
    storage.transaction(|tx| tx.give_back(offset, LENGTH))?;
    note(&storage, 6)?;
    storage.flush()?;
    let next = storage.transaction(|tx| tx.allocate(LENGTH))?;
    assert!(next <= offset, "{next} instead of {offset}");
    let outside = storage.transaction(|tx| tx.give_back(1 << 40, LENGTH));
    assert!(matches!(outside, Err(Error::Usage { .. })));
    Ok(())
}

#[test]
fn the_bytes_of_a_commit_stay_while_they_are_held() -> Outcome {
    let storage = open()?;
    let write = |offset: Option<u64>, byte: u8| {
        storage.transaction(|tx| -> Result<u64, Error> {
            let offset = match offset {
                Some(offset) => offset,
                None => {
                    let offset = tx.allocate(8192)?;
                    tx.keep(offset, 8192)?;
                    offset
                }
            };
            tx.write_at(offset, &[byte; 8192])?;
            Ok(offset)
        })
    };
    let offset = write(None, 1)?;
    let held = storage.pages()?;
    assert_eq!(held.version(), storage.version()?);
    for byte in 2..10 {
        write(Some(offset), byte)?;
    }
    let mut bytes = [0; 8192];
    held.read_at(offset, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == 1));
    storage.pages()?.read_at(offset, &mut bytes)?;
    assert!(bytes.iter().all(|byte| *byte == 9));
    let end = held.bytes();
    assert!(held.read_at(end - 1, &mut bytes).is_err());
    Ok(())
}
