//! [`Index`]: the stored sets that share most bits with one asked for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;

use super::set::Sdr;
use crate::atomic::AtomicFile;
use crate::bytes::{Reader, checked_mul};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel;
use crate::mmap::open_file;

/// Most bits of the sets of an index: a stored set takes n/8 bytes.
pub const MAX_INDEX_BITS: usize = 1 << 20;

/// Items from which on inverted lists are kept: below, all rows lie in the second-level
/// cache and are compared in the time that the lists' bookkeeping takes.
const LISTS_FROM: usize = 4096;

/// Items compared at a time.
const CHUNK: usize = 512;

/// A stored set and what it shares with the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The number it was added under.
    pub id: u64,
    /// Shared active bits, at least one.
    pub overlap: usize,
}

/// How an index is searched. Both ways give the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Every stored row is compared: N·n/64 words.
    BruteForce,
    /// The lists of the active bits are counted: about N·w²/n steps, and N to find the
    /// largest counts.
    Lists,
}

/// Sets under numbers, searched by overlap.
///
/// Every set is kept as a packed row of n/8 bytes; an index of 4,096 sets or more keeps
/// for each bit the list of those that have it active besides, 4·w bytes a set. Answers
/// are exact either way: the sets of largest overlap, the smaller number first among
/// equals, those that share nothing left out.
///
/// ```text
/// bytes 0…7    89 53 44 52 49 58 0D 0A
///       8…11   u32 version, 1
///       12…15  zero
///       16…23  u64 bits of every set, n
///       24…31  u64 items
///       then   for each item, by increasing id: u64 id, u32 w, w × u32 active bits
///              in increasing order
///       then   u32 CRC-32C of everything before
/// ```
#[derive(Clone, Debug)]
pub struct Index {
    bits: usize,
    ids: Vec<u64>,
    slots: HashMap<u64, u32>,
    /// `n / 64` words an item.
    rows: Vec<u64>,
    /// For each bit the slots that have it active, increasing.
    lists: Option<Vec<Vec<u32>>>,
}

impl Index {
    /// An empty index of sets of `bits` bits, up to 2²⁰.
    pub fn new(bits: usize) -> Result<Self> {
        if bits == 0 || bits > MAX_INDEX_BITS {
            return Err(Error::invalid(format!(
                "an index of sets of {bits} bits; 1 to {MAX_INDEX_BITS} are possible"
            )));
        }
        Ok(Self {
            bits,
            ids: Vec::new(),
            slots: HashMap::new(),
            rows: Vec::new(),
            lists: None,
        })
    }

    /// n.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Stored sets.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Bytes of rows, lists and numbers, without what the allocator adds.
    pub fn memory_bytes(&self) -> usize {
        let lists = self.lists.iter().flatten();
        self.rows.len() * 8
            + lists.map(|l| l.len() * 4 + size_of::<Vec<u32>>()).sum::<usize>()
            // A number in order, and number and slot in the table.
            + self.ids.len() * (8 + 16)
    }

    fn words(&self) -> usize {
        self.bits.div_ceil(64)
    }

    fn row(&self, slot: usize) -> &[u64] {
        &self.rows[slot * self.words()..(slot + 1) * self.words()]
    }

    fn check(&self, set: &Sdr) -> Result<()> {
        match set.bits() == self.bits {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "a set of {} bits for an index of {}",
                set.bits(),
                self.bits
            ))),
        }
    }

    /// Stores a set under a number that is not in use.
    pub fn add(&mut self, id: u64, set: &Sdr) -> Result<()> {
        self.check(set)?;
        if self.slots.contains_key(&id) {
            return Err(Error::invalid(format!("item {id} is already there")));
        }
        let slot = u32::try_from(self.len()).ok().filter(|s| *s < u32::MAX);
        let slot = slot.ok_or_else(|| Error::limit("2^32 items"))?;
        let start = self.rows.len();
        self.rows
            .try_reserve(self.words())
            .map_err(|_| Error::limit(format!("{} items", self.len() + 1)))?;
        self.rows.resize(start + self.words(), 0);
        set.set_words(&mut self.rows[start..]);
        self.ids.push(id);
        self.slots.insert(id, slot);
        if let Some(lists) = &mut self.lists {
            for i in set.active() {
                lists[*i as usize].push(slot);
            }
        } else if self.len() >= LISTS_FROM {
            self.keep_lists();
        }
        Ok(())
    }

    /// Keeps inverted lists from now on, however few sets there are.
    pub fn keep_lists(&mut self) {
        if self.lists.is_some() {
            return;
        }
        let mut lists = vec![Vec::new(); self.bits];
        for slot in 0..self.len() {
            for_active(self.row(slot), |i| lists[i].push(slot as u32));
        }
        self.lists = Some(lists);
    }

    /// The set stored under a number.
    pub fn get(&self, id: u64) -> Option<Sdr> {
        let slot = *self.slots.get(&id)? as usize;
        Sdr::from_words(self.bits, self.row(slot)).ok()
    }

    /// Removes the set of a number; whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(slot) = self.slots.remove(&id) else {
            return false;
        };
        let (words, last) = (self.words(), self.len() - 1);
        let hole = slot as usize;
        if let Some(lists) = &mut self.lists {
            let row = |slot: usize| &self.rows[slot * words..(slot + 1) * words];
            for_active(row(hole), |i| {
                if let Ok(at) = lists[i].binary_search(&slot) {
                    lists[i].remove(at);
                }
            });
            if hole != last {
                // The last item moves to the hole.
                for_active(row(last), |i| {
                    lists[i].pop();
                    if let Err(at) = lists[i].binary_search(&slot) {
                        lists[i].insert(at, slot);
                    }
                });
            }
        }
        self.rows
            .copy_within(last * words..(last + 1) * words, hole * words);
        self.rows.truncate(last * words);
        self.ids.swap_remove(hole);
        if hole != last {
            self.slots.insert(self.ids[hole], slot);
        }
        true
    }

    /// The `k` sets of largest overlap, largest first, the smaller number first among
    /// equals. Fewer if fewer share a bit.
    pub fn top_k(&self, set: &Sdr, k: usize) -> Result<Vec<Match>> {
        self.check(set)?;
        let search = match &self.lists {
            Some(lists) => {
                let steps: usize = set.active().iter().map(|i| lists[*i as usize].len()).sum();
                // Measured: counting takes about 1 ns a step and 0.75 ns an item, a row
                // 0.25 ns a word.
                match steps * 4 + self.len() * 3 < self.rows.len() {
                    true => Search::Lists,
                    false => Search::BruteForce,
                }
            }
            None => Search::BruteForce,
        };
        self.top_k_by(set, k, search)
    }

    /// As [`top_k`](Self::top_k), searched as told. Lists must be kept to be used.
    pub fn top_k_by(&self, set: &Sdr, k: usize, search: Search) -> Result<Vec<Match>> {
        self.check(set)?;
        let mut best = Best::new(k.min(self.len()));
        if k == 0 {
            return Ok(Vec::new());
        }
        match search {
            Search::BruteForce => {
                let (query, kernels) = (set.words(), kernel::best());
                let mut overlaps = [0u32; CHUNK];
                let rows = self.rows.chunks(CHUNK * self.words());
                for (rows, ids) in rows.zip(self.ids.chunks(CHUNK)) {
                    let overlaps = &mut overlaps[..ids.len()];
                    kernels.bit_overlaps(&query, rows, overlaps);
                    for (overlap, id) in overlaps.iter().zip(ids) {
                        best.offer(*overlap, *id);
                    }
                }
            }
            Search::Lists => {
                let lists = self.lists.as_ref().ok_or_else(|| {
                    Error::invalid("the index keeps no lists; ask for them with keep_lists")
                })?;
                let mut counts = vec![0u32; self.len()];
                for i in set.active() {
                    for slot in &lists[*i as usize] {
                        counts[*slot as usize] += 1;
                    }
                }
                for (overlap, id) in counts.iter().zip(&self.ids) {
                    best.offer(*overlap, *id);
                }
            }
        }
        Ok(best.sorted())
    }

    /// [`top_k`](Self::top_k) of many sets, in parallel.
    pub fn top_k_many(&self, sets: &[Sdr], k: usize) -> Result<Vec<Vec<Match>>> {
        sets.par_iter().map(|set| self.top_k(set, k)).collect()
    }

    /// The index as bytes; the same for the same items, in whatever order they came.
    pub fn save(&self) -> Vec<u8> {
        let mut out = Vec::from(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend((self.bits as u64).to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by_key(|slot| self.ids[*slot]);
        for slot in order {
            out.extend(self.ids[slot].to_le_bytes());
            let weight: u32 = self.row(slot).iter().map(|w| w.count_ones()).sum();
            out.extend(weight.to_le_bytes());
            for_active(self.row(slot), |i| out.extend((i as u32).to_le_bytes()));
        }
        let crc = crc32c::crc32c(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    /// Writes what [`save`](Self::save) gives to a file, which appears when it is complete;
    /// what stood there is replaced then.
    pub fn save_file(&self, path: &Path) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write(&self.save())?;
        file.finish()?;
        Ok(())
    }

    /// Reads the file that [`save_file`](Self::save_file) wrote; see [`load`](Self::load).
    pub fn load_file(path: &Path) -> Result<Self> {
        let (mut file, len) = open_file(path)?;
        let mut bytes = Vec::new();
        // Fails, where memory is short, instead of ending the program.
        usize::try_from(len)
            .ok()
            .and_then(|len| bytes.try_reserve_exact(len).ok())
            .ok_or_else(|| {
                let what = format!("cannot read {}: {len} bytes", path.display());
                Error::new(ErrorKind::OutOfMemory, what)
            })?;
        file.read_to_end(&mut bytes)
            .map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
        Self::load(&bytes).map_err(|e| e.context(path.display()))
    }

    /// Reads what [`save`](Self::save) wrote. Trusts nothing: damaged bytes are an error.
    pub fn load(bytes: &[u8]) -> Result<Self> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(Error::corrupt(format!("an index of {} bytes", bytes.len())));
        };
        let mut reader = Reader::new(body);
        if reader.take(8)? != MAGIC {
            return Err(Error::corrupt("not an index of sets"));
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "version {version} of an index of sets; {VERSION} is known"
            )));
        }
        let (found, stated) = (crc32c::crc32c(body), u32::from_le_bytes(*crc));
        if found != stated {
            return Err(Error::corrupt(format!(
                "checksum {found:08x} of an index, {stated:08x} expected"
            )));
        }
        if reader.u32()? != 0 {
            return Err(Error::corrupt("reserved bytes that are not zero").with_offset(12));
        }
        let (bits, items) = (reader.u64()?, reader.u64()?);
        if bits == 0 || bits > MAX_INDEX_BITS as u64 {
            return Err(Error::limit(format!("an index of sets of {bits} bits")));
        }
        if items > reader.remaining() as u64 / 12 {
            return Err(Error::corrupt(format!(
                "{items} items in {} bytes",
                reader.remaining()
            )));
        }
        let mut index = Self::new(bits as usize)?;
        let row_bytes = checked_mul(items as usize, index.words() * 8)?;
        // Sets so sparse that their packed rows are far larger than the file.
        if row_bytes > MAX_UNPACKED && row_bytes / UNPACK_FACTOR > bytes.len() {
            return Err(Error::limit(format!(
                "{row_bytes} bytes of rows from an index of {} bytes",
                bytes.len()
            )));
        }
        let mut before = None;
        for _ in 0..items {
            let at = reader.position() as u64;
            let id = reader.u64()?;
            if before.is_some_and(|b| b >= id) {
                return Err(Error::corrupt(format!("item {id} out of order")).with_offset(at));
            }
            before = Some(id);
            let weight = reader.u32()? as usize;
            let active = reader.take(checked_mul(weight, 4)?)?;
            let active = active.as_chunks::<4>().0.iter();
            let active = active.map(|b| u32::from_le_bytes(*b)).collect();
            let set = Sdr::from_sorted(index.bits, active)
                .map_err(|e| Error::corrupt(e.message()).with_offset(at))?;
            index.add(id, &set)?;
        }
        match reader.remaining() {
            0 => Ok(index),
            n => Err(Error::corrupt(format!("{n} bytes after the last item"))),
        }
    }
}

const MAGIC: [u8; 8] = [0x89, b'S', b'D', b'R', b'I', b'X', 0x0d, 0x0a];
const VERSION: u32 = 1;
/// Rows up to this many bytes are always taken, more only if they are not more than
/// `UNPACK_FACTOR` times as large as the file.
const MAX_UNPACKED: usize = 1 << 28;
const UNPACK_FACTOR: usize = 64;

fn for_active(row: &[u64], mut f: impl FnMut(usize)) {
    for (i, word) in row.iter().enumerate() {
        let mut word = *word;
        while word != 0 {
            f(i * 64 + word.trailing_zeros() as usize);
            word &= word - 1;
        }
    }
}

/// The best so far, worst on top.
struct Best {
    k: usize,
    /// What has to be passed: the least overlap, once there are k.
    least: u32,
    heap: BinaryHeap<Reverse<(u32, Reverse<u64>)>>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self {
            k,
            least: 1,
            heap: BinaryHeap::new(),
        }
    }

    #[inline]
    fn offer(&mut self, overlap: u32, id: u64) {
        if overlap < self.least {
            return;
        }
        self.put(overlap, id);
    }

    fn put(&mut self, overlap: u32, id: u64) {
        self.heap.push(Reverse((overlap, Reverse(id))));
        if self.heap.len() > self.k {
            self.heap.pop();
        }
        if self.heap.len() == self.k
            && let Some(Reverse((least, _))) = self.heap.peek()
        {
            self.least = *least;
        }
    }

    fn sorted(self) -> Vec<Match> {
        let sorted = self.heap.into_sorted_vec();
        sorted
            .into_iter()
            .map(|Reverse((overlap, Reverse(id)))| Match {
                id,
                overlap: overlap as usize,
            })
            .collect()
    }
}
