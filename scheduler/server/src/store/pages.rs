//! Whether a store's file is what LMDB wrote, looked at before LMDB maps it and believes every number in it.
//!
//! Reads only. Walks the trees from the newest meta page (layout: `MDB_meta`, `MDB_page`, `MDB_node` of LMDB 0.9) and
//! checks every page number, size and key on the way, so that a truncated or overwritten file is refused with words
//! instead of a signal. What is inside records is `seal`'s.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
const HEADER: usize = 16;
const NODE: usize = 8;
const TREE: usize = 48;
/// Where the two trees are in a meta page: the free pages, then the tables.
const TREES: [usize; 2] = [HEADER + 24, HEADER + 24 + TREE];
const LAST_PAGE: usize = HEADER + 120;
const TRANSACTION: usize = HEADER + 128;
const NOWHERE: u64 = u64::MAX;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
const BIG: u16 = 0x01;
const SUBTREE: u16 = 0x02;
/// The free tree has integers for keys.
const INTEGER_KEYS: u16 = 0x08;
/// Trees are far flatter.
const DEEPEST: u16 = 32;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("read it")]
    Read(#[source] io::Error),
    /// Nothing is in it.
    #[error("it is empty; if nothing was ever stored here, remove it")]
    Empty,
    /// It is no store.
    #[error("it is no LMDB file: {0}")]
    Foreign(&'static str),
    /// It ends before it should.
    #[error("page {page} is beyond its end, it has {pages} pages: it was cut off")]
    Cut {
        /// The page that is wanted.
        page: u64,
        /// How many there are.
        pages: u64,
    },
    /// A page is not what it should be.
    #[error("page {page} is damaged: {why}")]
    Page {
        /// Which page.
        page: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What a sound file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// Pages in use.
    pub pages: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Tables in it; none has been made in a new one.
    pub tables: u64,
}

struct Walk<'a> {
    file: &'a File,
    page_bytes: usize,
    pages: u64,
    seen: BTreeSet<u64>,
}

/// One tree as its owner describes it.
struct Tree {
    flags: u16,
    depth: u16,
    branches: u64,
    leaves: u64,
    overflows: u64,
    entries: u64,
    root: u64,
}

#[derive(Default)]
struct Counted {
    branches: u64,
    leaves: u64,
    overflows: u64,
    entries: u64,
    last_key: Option<Vec<u8>>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        field.copy_from_slice(found);
    }
    field
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

impl Tree {
    fn at(bytes: &[u8], at: usize) -> Self {
        Self {
            flags: u16_at(bytes, at + 4),
            depth: u16_at(bytes, at + 6),
            branches: u64_at(bytes, at + 8),
            leaves: u64_at(bytes, at + 16),
            overflows: u64_at(bytes, at + 24),
            entries: u64_at(bytes, at + 32),
            root: u64_at(bytes, at + 40),
        }
    }
}

/// Checks the whole file.
pub fn verify(file: &File) -> Result<Structure, BadFile> {
    let length = file.metadata().map_err(BadFile::Read)?.len();
    if length == 0 {
        return Err(BadFile::Empty);
    }
    let mut head = [0; TRANSACTION + 8];
    file.read_exact_at(&mut head, 0).map_err(|_| BadFile::Foreign("it is too short"))?;
    if u32_at(&head, HEADER) != MAGIC {
        return Err(BadFile::Foreign("it does not begin like one"));
    }
    let page_bytes = u32_at(&head, TREES[0]) as usize;
    if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
        return Err(BadFile::Page { page: 0, why: "its page size is impossible" });
    }
    let pages = length / page_bytes as u64;
    let mut walk = Walk { file, page_bytes, pages, seen: BTreeSet::from([0, 1]) };
    let (first, second) = (walk.meta(0)?, walk.meta(1)?);
    let (one, other) = (u64_at(&first, TRANSACTION), u64_at(&second, TRANSACTION));
    let alternate = one.abs_diff(other) == 1 && one % 2 == 0 && other % 2 == 1;
    if !(alternate || (one == 0 && other == 0)) {
        return Err(BadFile::Page {
            page: 0,
            why: "the numbers of the last two transactions do not follow each other",
        });
    }
    let (page, newest) = if other > one { (1, &second) } else { (0, &first) };
    let last_page = u64_at(newest, LAST_PAGE);
    if last_page > u64::MAX / page_bytes as u64 / 2 || last_page < 1 {
        return Err(BadFile::Page { page, why: "its last page is impossible" });
    }
    let (free, tables) = (Tree::at(newest, TREES[0]), Tree::at(newest, TREES[1]));
    if free.flags != INTEGER_KEYS || tables.flags != 0 {
        return Err(BadFile::Page { page, why: "its flags are not those of a store" });
    }
    walk.tree(&tables, page, true)?;
    let spare = walk.free_pages(&free, page)?;
    if spare.iter().any(|page| *page < 2 || *page > last_page || walk.seen.contains(page)) {
        return Err(BadFile::Page { page, why: "a page in use is listed as free" });
    }
    if walk.seen.last().is_some_and(|highest| *highest > last_page) {
        return Err(BadFile::Page { page, why: "pages beyond its last one are in use" });
    }
    Ok(Structure { pages: walk.seen.len() as u64, page_bytes: page_bytes as u64, tables: tables.entries })
}

impl Walk<'_> {
    fn read(&self, page: u64) -> Result<Vec<u8>, BadFile> {
        let cut = BadFile::Cut { page, pages: self.pages };
        if page >= self.pages {
            return Err(cut);
        }
        let mut bytes = vec![0; self.page_bytes];
        self.file.read_exact_at(&mut bytes, page * self.page_bytes as u64).map_err(BadFile::Read)?;
        Ok(bytes)
    }

    fn meta(&self, page: u64) -> Result<Vec<u8>, BadFile> {
        let bytes = self.read(page)?;
        let bad = |why| Err(BadFile::Page { page, why });
        if u16_at(&bytes, 10) != META || u64_at(&bytes, 0) != page {
            return bad("it is no meta page");
        }
        if u32_at(&bytes, HEADER) != MAGIC || u32_at(&bytes, HEADER + 4) != VERSION {
            return bad("its mark or version is wrong");
        }
        if u32_at(&bytes, TREES[0]) as usize != self.page_bytes {
            return bad("its page size differs");
        }
        Ok(bytes)
    }

    /// A page that was not seen before.
    fn take(&mut self, page: u64) -> Result<Vec<u8>, BadFile> {
        let bytes = self.read(page)?;
        if !self.seen.insert(page) {
            return Err(BadFile::Page { page, why: "it is used twice" });
        }
        if u64_at(&bytes, 0) != page {
            return Err(BadFile::Page { page, why: "it says that it is another page" });
        }
        Ok(bytes)
    }

    /// Walks a tree and compares it with its description. Returns the data of its entries when `tables` is false.
    fn tree(&mut self, tree: &Tree, owner: u64, tables: bool) -> Result<Counted, BadFile> {
        let mut counted = Counted::default();
        if tree.depth > DEEPEST || (tree.root == NOWHERE) != (tree.depth == 0) {
            return Err(BadFile::Page { page: owner, why: "the depth of a tree is impossible" });
        }
        if tree.root != NOWHERE {
            self.node(tree.root, tree.depth, tables, tree.flags == INTEGER_KEYS, &mut counted, &mut |_| Ok(()))?;
        }
        self.compare(tree, &counted, owner)?;
        Ok(counted)
    }

    fn compare(&self, tree: &Tree, counted: &Counted, owner: u64) -> Result<(), BadFile> {
        let described = (tree.branches, tree.leaves, tree.overflows, tree.entries);
        if described != (counted.branches, counted.leaves, counted.overflows, counted.entries) {
            return Err(BadFile::Page { page: owner, why: "a tree does not have what it is said to have" });
        }
        Ok(())
    }

    /// The pages that the next transactions may overwrite.
    fn free_pages(&mut self, tree: &Tree, owner: u64) -> Result<BTreeSet<u64>, BadFile> {
        let mut spare = BTreeSet::new();
        let mut counted = Counted::default();
        if tree.depth > DEEPEST || (tree.root == NOWHERE) != (tree.depth == 0) {
            return Err(BadFile::Page { page: owner, why: "the depth of a tree is impossible" });
        }
        if tree.root != NOWHERE {
            let mut collect = |data: &[u8]| {
                let count = usize::try_from(u64_at(data, 0)).unwrap_or(usize::MAX);
                if data.len() < 8 || count.saturating_add(1).saturating_mul(8) > data.len() {
                    return Err("a list of free pages is longer than its record");
                }
                let before = spare.len();
                spare.extend((1..=count).map(|index| u64_at(data, index * 8)));
                if spare.len() - before != count { Err("a page is free twice") } else { Ok(()) }
            };
            self.node(tree.root, tree.depth, false, true, &mut counted, &mut collect)?;
        }
        self.compare(tree, &counted, owner)?;
        Ok(spare)
    }

    fn node(
        &mut self,
        page: u64,
        depth: u16,
        tables: bool,
        integers: bool,
        counted: &mut Counted,
        collect: &mut dyn FnMut(&[u8]) -> Result<(), &'static str>,
    ) -> Result<(), BadFile> {
        let bytes = self.take(page)?;
        let bad = |why| BadFile::Page { page, why };
        let (flags, lower, upper) = (u16_at(&bytes, 10), u16_at(&bytes, 12) as usize, u16_at(&bytes, 14) as usize);
        let is_branch = match (flags, depth) {
            (BRANCH, 2..) => true,
            (LEAF, 1) => false,
            _ => return Err(bad("it is of the wrong kind")),
        };
        if lower < HEADER || lower % 2 != 0 || lower > upper || upper > bytes.len() {
            return Err(bad("its bounds are impossible"));
        }
        let count = (lower - HEADER) / 2;
        if count < 1 + usize::from(is_branch) {
            return Err(bad("it has too few entries"));
        }
        if is_branch {
            counted.branches += 1;
        } else {
            counted.leaves += 1;
        }
        for index in 0..count {
            let at = u16_at(&bytes, HEADER + 2 * index) as usize;
            if at < upper || at + NODE > bytes.len() {
                return Err(bad("an entry lies outside"));
            }
            let low = u64::from(u16_at(&bytes, at)) | u64::from(u16_at(&bytes, at + 2)) << 16;
            let (node_flags, key_bytes) = (u16_at(&bytes, at + 4), u16_at(&bytes, at + 6) as usize);
            let data_at = at + NODE + key_bytes;
            let Some(key) = bytes.get(at + NODE..data_at) else { return Err(bad("a key lies outside")) };
            if is_branch {
                self.node(low | u64::from(node_flags) << 32, depth - 1, tables, integers, counted, collect)?;
                continue;
            }
            let key: Vec<u8> = if integers { key.iter().rev().copied().collect() } else { key.to_vec() };
            if integers && key.len() != 8 {
                return Err(bad("a key is no number"));
            }
            if counted.last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(bad("its keys are not in order"));
            }
            counted.last_key = Some(key);
            counted.entries += 1;
            let size = usize::try_from(low).unwrap_or(usize::MAX);
            match node_flags {
                BIG if !tables => {
                    let first = u64_at(&bytes, data_at);
                    if data_at + 8 > bytes.len() {
                        return Err(bad("an entry lies outside"));
                    }
                    let data = self.overflow(first, size, counted)?;
                    collect(&data).map_err(bad)?;
                }
                SUBTREE if tables && size == TREE && data_at + TREE <= bytes.len() => {
                    let tree = Tree::at(&bytes, data_at);
                    if tree.flags != 0 {
                        return Err(bad("a table has flags that no table of ours has"));
                    }
                    self.tree(&tree, page, false)?;
                }
                0 if !tables => {
                    let end = data_at.saturating_add(size);
                    let data = bytes.get(data_at..end).ok_or(bad("an entry lies outside"))?;
                    collect(data).map_err(bad)?;
                }
                _ => return Err(bad("an entry is of a kind that no store has")),
            }
        }
        Ok(())
    }

    /// The data of a large entry.
    fn overflow(&mut self, first: u64, size: usize, counted: &mut Counted) -> Result<Vec<u8>, BadFile> {
        let head = self.take(first)?;
        let bad = |why| BadFile::Page { page: first, why };
        let pages = u64::from(u32_at(&head, 12));
        if u16_at(&head, 10) != OVERFLOW || pages != (HEADER + size).div_ceil(self.page_bytes) as u64 {
            return Err(bad("it is no page for an entry of this size"));
        }
        if first + pages > self.pages {
            return Err(BadFile::Cut { page: first + pages - 1, pages: self.pages });
        }
        for page in first + 1..first + pages {
            if !self.seen.insert(page) {
                return Err(BadFile::Page { page, why: "it is used twice" });
            }
        }
        counted.overflows += pages;
        let mut data = vec![0; size];
        let at = first * self.page_bytes as u64 + HEADER as u64;
        self.file.read_exact_at(&mut data, at).map_err(BadFile::Read)?;
        Ok(data)
    }
}
