//! What pages made to do harm come to, each case by itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use corallite_file::{Error, Result};
use zerocopy::little_endian::{U16, U32};

use super::edit::{Cell, Payload};
use super::page::{HEADER, Kind, ROOM};
use super::{Flaw, Meta, PageBuf, PageNo, Pages, Span, Value, check, get, scan};

struct Fake {
    meta: Meta,
    pages: HashMap<u32, PageBuf>,
}

impl Fake {
    fn new(level: u8, pages: impl IntoIterator<Item = PageBuf>) -> Self {
        let pages: HashMap<u32, PageBuf> = (1..).zip(pages).collect();
        let meta = Meta { level, pages: pages.len() as u32 + 1, keys: 1, ..Meta::empty() };
        Self { meta, pages }
    }

    fn problem(&self, key: &[u8]) -> String {
        get(self, key).unwrap_err().to_string()
    }
}

impl Pages for Fake {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn page(&self, number: PageNo) -> Result<Arc<PageBuf>> {
        self.pages.get(&number.0).map(|page| Arc::new(*page)).ok_or_else(|| self.damaged(number, Flaw("not there")))
    }

    fn damaged(&self, number: PageNo, flaw: Flaw) -> Error {
        Error::Damaged { path: PathBuf::new(), offset: 0, problem: format!("page {}: {}", number.0, flaw.0) }
    }
}

fn leaf(cells: &[(&[u8], Value<'_>)]) -> PageBuf {
    let cells: Vec<Cell<'_>> = cells.iter().map(|(key, value)| Cell::new(key, Payload::Value(*value))).collect();
    PageBuf::of(0, PageNo(0), &cells)
}

fn branch(level: u8, first: u32, cells: &[(&[u8], u32)]) -> PageBuf {
    let cells: Vec<Cell<'_>> =
        cells.iter().map(|(key, child)| Cell::new(key, Payload::Child(PageNo(*child)))).collect();
    PageBuf::of(level, PageNo(first), &cells)
}

const SHORT: Value<'static> = Value::Inline(b"1");

fn flaw_of(mut page: PageBuf, change: impl FnOnce(&mut PageBuf)) -> Option<&'static str> {
    change(&mut page);
    page.seal(PageNo(7), 1);
    page.check(PageNo(7), 1).err().map(|flaw| flaw.0)
}

#[test]
fn a_page_is_checked_wholly_when_it_is_read() {
    let page = leaf(&[(b"aa", SHORT), (b"ab", SHORT), (b"ac", Value::Long { length: 5000, first: PageNo(3) })]);
    assert_eq!(flaw_of(page, |_| {}), None);
    let swap = |page: &mut PageBuf| {
        let slots = page.slots();
        page.0.copy_within(slots..slots + 2, slots + 4);
    };
    assert_eq!(flaw_of(page, swap), Some("its keys are not in order"));
    assert_eq!(flaw_of(page, |page| page.header_mut().count = U16::new(2)), Some("its cells do not add up"));
    assert_eq!(
        flaw_of(page, |page| page.header_mut().count = U16::new(u16::MAX)),
        Some("its cells do not fit into it")
    );
    assert_eq!(flaw_of(page, |page| page.header_mut().prefix = U16::new(2000)), Some("its cells do not fit into it"));
    assert_eq!(flaw_of(page, |page| page.header_mut().kind = 9), Some("it is of no known kind"));
    assert_eq!(flaw_of(page, |page| page.header_mut().level = 1), Some("it is of no known kind"));
    let long = |page: &mut PageBuf| {
        let cell = page.cell(0);
        page.0[cell..cell + 2].copy_from_slice(&900_u16.to_le_bytes());
    };
    assert_eq!(flaw_of(page, long), Some("a cell lies outside"));
    let mut page = page;
    page.seal(PageNo(7), 2);
    assert!(page.check(PageNo(7), 1).is_err() && page.check(PageNo(8), 2).is_err());
}

#[test]
fn a_branch_that_leads_to_itself_or_astray_is_an_error() {
    let astray = Fake::new(1, [branch(1, 1, &[(b"b", 2)]), leaf(&[(b"c", SHORT)])]);
    assert!(astray.problem(b"a").contains("page 1: it is not where it belongs"));
    assert_eq!(get(&astray, b"c").unwrap().as_deref(), Some(&b"1"[..]));
    // The same leaf twice, and leaves in the wrong order.
    let twice = Fake::new(1, [branch(1, 2, &[(b"b", 2)]), leaf(&[(b"a", SHORT)])]);
    let all = Span { from: b"", to: None, is_reversed: false };
    for span in [all, Span { is_reversed: true, ..all }] {
        let scanned = scan(&twice, span, |_, _| Ok(std::ops::ControlFlow::Continue(())));
        assert!(scanned.unwrap_err().to_string().contains("do not follow"));
    }
    assert!(check(&twice).iter().any(|problem| problem.contains("used twice")));
    let empty = Fake::new(1, [branch(1, 2, &[]), leaf(&[])]);
    assert!(empty.problem(b"a").contains("it is empty"));
}

#[test]
fn a_long_value_that_goes_in_circles_or_cannot_be_is_an_error() {
    let part = |count: usize, next: u32| {
        let mut page = PageBuf::new(Kind::Overflow, 0);
        page.header_mut().count = U16::new(count as u16);
        page.header_mut().link = U32::new(next);
        page.0[HEADER..HEADER + count].fill(7);
        page
    };
    let value = |length: usize| Value::Long { length: length as u32, first: PageNo(2) };
    let circle = |length| Fake::new(0, [leaf(&[(b"a", value(length))]), part(ROOM, 2)]);
    assert!(circle(u32::MAX as usize).problem(b"a").contains("length that cannot be"));
    assert!(circle(2 * ROOM).problem(b"a").contains("page 2: it is not the part"));
    assert!(circle(0).problem(b"a").contains("length that cannot be"));
    let short = Fake::new(0, [leaf(&[(b"a", value(ROOM + 5))]), part(ROOM, 3), part(4, 0)]);
    assert!(short.problem(b"a").contains("page 3"));
    let sound = Fake::new(0, [leaf(&[(b"a", value(ROOM + 4))]), part(ROOM, 3), part(4, 0)]);
    assert_eq!(get(&sound, b"a").unwrap().unwrap().len(), ROOM + 4);
    assert_eq!(check(&sound), Vec::<String>::new());
}
