//! Keys and values, by space: ordered pages behind `Rc`, so that a snapshot shares all pages and a
//! change copies one.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;

const PAGE_PAIRS_MAX: usize = 256;

type Page = BTreeMap<Bytes, Bytes>;

#[derive(Debug, Clone, Default)]
pub struct Spaces {
    spaces: BTreeMap<u8, Pages>,
}

/// Pages by a key that is at most the first of their keys. The first page starts at the empty key.
#[derive(Debug, Clone, Default)]
struct Pages {
    pages: BTreeMap<Bytes, Rc<Page>>,
}

impl Spaces {
    #[must_use]
    pub fn get(&self, space: u8, key: &[u8]) -> Option<Bytes> {
        let (_, page) = self.spaces.get(&space)?.page_of(key)?;
        page.get(key).cloned()
    }

    pub fn scan(&self, space: u8) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.spaces
            .get(&space)
            .into_iter()
            .flat_map(|pages| pages.pages.values().flat_map(|page| page.iter()))
    }

    /// The pairs whose keys begin with `prefix`, by key ascending.
    pub fn scan_prefix<'s>(
        &'s self,
        space: u8,
        prefix: &'s [u8],
    ) -> impl Iterator<Item = (&'s Bytes, &'s Bytes)> {
        self.scan_from(space, prefix).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The pairs from `from` on, by key ascending.
    pub fn scan_from<'s>(
        &'s self,
        space: u8,
        from: &'s [u8],
    ) -> impl Iterator<Item = (&'s Bytes, &'s Bytes)> {
        let pages = self.spaces.get(&space).into_iter().flat_map(move |pages| {
            let first = pages.page_of(from).map_or(&[][..], |(start, _)| start);
            let range = (std::ops::Bound::Included(first), std::ops::Bound::Unbounded);
            pages.pages.range::<[u8], _>(range).flat_map(|(_, page)| page.iter())
        });
        pages.skip_while(move |(key, _)| key.as_ref() < from)
    }

    pub fn put(&mut self, space: u8, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.insert(space, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            }
            None => self.spaces.entry(space).or_default().remove(key),
        }
    }

    pub fn insert(&mut self, space: u8, key: Bytes, value: Bytes) {
        self.spaces.entry(space).or_default().insert(key, value);
    }

    /// Every page, for a checkpoint.
    pub fn pages(&self) -> impl Iterator<Item = (u8, &Rc<Page>)> {
        self.spaces
            .iter()
            .flat_map(|(space, pages)| pages.pages.values().map(move |page| (*space, page)))
    }
}

impl Pages {
    fn page_of(&self, key: &[u8]) -> Option<(&Bytes, &Rc<Page>)> {
        self.pages
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()
    }

    fn insert(&mut self, key: Bytes, value: Bytes) {
        let start = self.page_of(&key).map_or_else(Bytes::new, |(start, _)| start.clone());
        let page = Rc::make_mut(self.pages.entry(start).or_default());
        page.insert(key, value);
        if page.len() <= PAGE_PAIRS_MAX {
            return;
        }
        let middle = page.keys().nth(page.len() / 2).cloned().expect("a page that is over-full");
        let upper = page.split_off(&middle);
        self.pages.insert(middle, Rc::new(upper));
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((start, page)) = self.page_of(key) else { return };
        if !page.contains_key(key) {
            return;
        }
        let start = start.clone();
        let page = Rc::make_mut(self.pages.get_mut(&start).expect("the page just found"));
        page.remove(key);
        // The first page stays as the home of all small keys.
        if page.is_empty() && !start.is_empty() {
            self.pages.remove(&start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_split_and_empty_and_snapshots_stay() {
        let mut spaces = Spaces::default();
        for number in (0..2000_u32).rev() {
            spaces.put(1, &number.to_be_bytes(), Some(b"value"));
        }
        let snapshot = spaces.clone();
        assert!(spaces.pages().count() > 4);
        for number in 0..1990_u32 {
            spaces.put(1, &number.to_be_bytes(), None);
        }
        let keys: Vec<_> = spaces.scan(1).map(|(key, _)| key.to_vec()).collect();
        assert_eq!(keys, (1990..2000_u32).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(snapshot.scan(1).count(), 2000);
        assert_eq!(spaces.get(1, &7_u32.to_be_bytes()), None);
        assert_eq!(snapshot.get(1, &7_u32.to_be_bytes()), Some(Bytes::from_static(b"value")));
        assert_eq!(spaces.get(2, b"x"), None);
    }

    #[test]
    fn a_prefix_finds_its_own_across_pages() {
        let mut spaces = Spaces::default();
        assert_eq!(spaces.scan_prefix(1, b"a").count(), 0);
        for number in 0..2000_u32 {
            spaces.put(1, &number.to_be_bytes(), Some(b"value"));
        }
        let found = |prefix: &[u8]| -> Vec<u32> {
            let number = |key: &Bytes| u32::from_be_bytes(key[..].try_into().unwrap());
            spaces.scan_prefix(1, prefix).map(|(key, _)| number(key)).collect()
        };
        assert_eq!(found(&[0, 0, 3]), (768..1024).collect::<Vec<_>>());
        assert_eq!(found(&[0, 0, 3, 7]), [775]);
        assert_eq!(found(&[0, 0, 9]), []);
        assert_eq!(found(b"").len(), 2000);
        let from = |number: u32| {
            let key = number.to_be_bytes();
            spaces.scan_from(1, &key).next().map(|(key, _)| key.to_vec())
        };
        for number in [0, 700, 1999] {
            assert_eq!(from(number), Some(number.to_be_bytes().to_vec()));
        }
        assert_eq!(from(2000), None);
        let after = [&700_u32.to_be_bytes()[..], &[0]].concat();
        assert_eq!(spaces.scan_from(1, &after).count(), 1299);
    }
}
