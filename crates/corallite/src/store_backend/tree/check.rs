//! Looking at every page: for `verify`.

use std::sync::Arc;

use corallite_file::Result;

use super::meta::Meta;
use super::page::{Flaw, HEADER, Kind, PageBuf, PageNo, Value};
use super::read::{Pages, chain, node};

/// A page to be looked at, and the keys that may be in it.
struct Step {
    number: PageNo,
    level: u8,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
}

struct Check<'a> {
    pages: &'a dyn Pages,
    /// One bit a page.
    seen: Vec<u64>,
    problems: Vec<String>,
    keys: u64,
}

/// What is wrong with the tree, in sentences; nothing if it is sound.
pub(crate) fn check(pages: &dyn Pages) -> Vec<String> {
    let Meta { root, level, pages: count, .. } = *pages.meta();
    let mut check = Check { pages, seen: vec![0; (count as usize).div_ceil(64)], problems: Vec::new(), keys: 0 };
    check.take(PageNo(0));
    let mut steps = vec![Step { number: root, level, from: Vec::new(), to: None }];
    while let Some(step) = steps.pop() {
        if let Err(error) = check.tree(step, &mut steps) {
            check.problems.push(error.to_string());
        }
    }
    if let Err(error) = check.free_list() {
        check.problems.push(error.to_string());
    }
    // What lies below a damaged page cannot be counted.
    if check.problems.is_empty() {
        let lost = (0..count).filter(|&number| check.seen[number as usize / 64] >> (number % 64) & 1 == 0).count();
        if lost > 0 {
            check.problems.push(format!("{lost} pages of the objects belong to nothing"));
        }
        if check.keys != pages.meta().keys {
            let (found, noted) = (check.keys, pages.meta().keys);
            check.problems.push(format!("the objects have {found} keys, and {noted} were noted"));
        }
    }
    check.problems
}

impl Check<'_> {
    /// Whether a page is seen for the first time.
    fn take(&mut self, number: PageNo) -> bool {
        let Some(word) = self.seen.get_mut(number.0 as usize / 64) else { return false };
        let bit = 1 << (number.0 % 64);
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first
    }

    fn take_once(&mut self, number: PageNo) -> Result<()> {
        if self.take(number) { Ok(()) } else { Err(self.pages.damaged(number, Flaw("it is used twice"))) }
    }

    fn tree(&mut self, step: Step, steps: &mut Vec<Step>) -> Result<()> {
        let Step { number, level, from, to } = step;
        self.take_once(number)?;
        let page = node(self.pages, number, level)?;
        let outside = |key: &[u8]| key < from.as_slice() || to.as_ref().is_some_and(|to| key >= to.as_slice());
        // Keys are in order, so the first and the last speak for all.
        for index in [0, page.count().saturating_sub(1)] {
            if index < page.count() && outside(&page.key(index)) {
                return Err(self.pages.damaged(number, Flaw("its keys belong elsewhere")));
            }
        }
        if level == 0 {
            return self.leaf(&page);
        }
        for child in 0..=page.count() {
            let below = child.checked_sub(1).map_or_else(|| from.clone(), |index| page.key(index));
            let above = if child < page.count() { Some(page.key(child)) } else { to.clone() };
            steps.push(Step { number: page.child(child), level: level - 1, from: below, to: above });
        }
        Ok(())
    }

    fn leaf(&mut self, page: &Arc<PageBuf>) -> Result<()> {
        self.keys += page.count() as u64;
        for index in 0..page.count() {
            if let Value::Long { length, first } = page.value(index) {
                let mut numbers = Vec::new();
                let read = chain(self.pages, length as usize, first, |number, _| numbers.push(number));
                numbers.into_iter().try_for_each(|number| self.take_once(number))?;
                read?;
            }
        }
        Ok(())
    }

    fn free_list(&mut self) -> Result<()> {
        let mut number = self.pages.meta().free;
        let mut count = 0;
        while number != PageNo(0) {
            self.take_once(number)?;
            let page = self.pages.page(number)?;
            if !page.is(Kind::Free) {
                return Err(self.pages.damaged(number, Flaw("it is not part of the free list")));
            }
            count += 1 + page.count() as u32;
            for index in 0..page.count() {
                self.take_once(PageNo(page.u32_at(HEADER + 4 * index)))?;
            }
            number = page.link();
        }
        if count == self.pages.meta().free_pages {
            return Ok(());
        }
        Err(self.pages.damaged(PageNo(0), Flaw("it notes another number of free pages than there are")))
    }
}
