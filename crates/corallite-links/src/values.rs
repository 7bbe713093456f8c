//! [`Values`]: what a key is linked to.

use std::ops::Deref;

use crate::E;
use crate::entry::MULTI_VALUE_THRESHOLD;

/// The values of a key, in the order of their insertion. Up to four of them cost no allocation.
#[derive(Clone, Default)]
pub struct Values {
    few: [E; MULTI_VALUE_THRESHOLD],
    count: u8,
    many: Vec<E>,
}

impl Values {
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.many.clear();
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, value: E) {
        if self.many.is_empty() {
            if let Some(place) = self.few.get_mut(usize::from(self.count)) {
                *place = value;
                self.count += 1;
                return;
            }
            self.many.extend_from_slice(&self.few);
        }
        self.many.push(value);
    }

    /// For values whose number is known.
    pub(crate) fn reserve(&mut self, count: usize) {
        if count > MULTI_VALUE_THRESHOLD {
            self.many.reserve(count);
        }
    }

    pub(crate) fn from_vec(values: Vec<E>) -> Self {
        if values.len() <= MULTI_VALUE_THRESHOLD {
            values.into_iter().collect()
        } else {
            Self { many: values, ..Self::default() }
        }
    }

    /// The values.
    #[inline]
    pub fn as_slice(&self) -> &[E] {
        if self.many.is_empty() { &self.few[..usize::from(self.count)] } else { &self.many }
    }
}

impl Deref for Values {
    type Target = [E];

    fn deref(&self) -> &[E] {
        self.as_slice()
    }
}

impl FromIterator<E> for Values {
    fn from_iter<I: IntoIterator<Item = E>>(values: I) -> Self {
        let mut all = Self::default();
        values.into_iter().for_each(|value| all.push(value));
        all
    }
}

impl From<Values> for Vec<E> {
    fn from(values: Values) -> Self {
        if values.many.is_empty() { values.as_slice().to_vec() } else { values.many }
    }
}

impl IntoIterator for Values {
    type Item = E;
    type IntoIter = std::vec::IntoIter<E>;

    fn into_iter(self) -> Self::IntoIter {
        Vec::from(self).into_iter()
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a E;
    type IntoIter = std::slice::Iter<'a, E>;

    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Values {}

impl PartialEq<[E]> for Values {
    fn eq(&self, other: &[E]) -> bool {
        self.as_slice() == other
    }
}

impl PartialEq<Vec<E>> for Values {
    fn eq(&self, other: &Vec<E>) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<const COUNT: usize> PartialEq<[E; COUNT]> for Values {
    fn eq(&self, other: &[E; COUNT]) -> bool {
        self.as_slice() == other
    }
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
