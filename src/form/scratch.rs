//! Working memory of products, kept between them.
//!
//! A process has one pool. Scratch kept by each tensor, the other choice, would hold a
//! window for every layer of a model; scratch kept by each thread would stay with threads
//! that never multiply again. The pool holds as many as ever ran at once, and gives up
//! what is above [`KEPT_BYTES`].

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use super::activations::Rounder;
use crate::kernel::quant::TILE_ROWS;

/// Working memory of one thread, kept between windows so that it is allocated once. A
/// user takes a field, resizes it and writes before reading: what it held is of no use.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Packed chunks decoded for a window.
    pub bytes: Vec<u8>,
    /// A second byte window (values beside a mask).
    pub more_bytes: Vec<u8>,
    /// Decoded values.
    pub floats: Vec<f32>,
    /// Results of a window.
    pub out: Vec<f32>,
    /// Rows of `x` side by side, and their sums.
    pub panel: Vec<f32>,
    /// Decoded positions.
    pub positions: Vec<u32>,
    /// Activations as integers: of most columns, of those past a multiple of 32, and of most
    /// columns in wider groups.
    pub rounded: [Rounder; 3],
    /// A tile whose codes were opened, and its scales.
    pub(super) opened: [Vec<u8>; 2],
    /// The same with int8 codes and scales for wider groups.
    pub(super) narrowed: [Vec<u8>; 2],
    /// Sums of tiles.
    pub(super) sums: Vec<[f32; TILE_ROWS]>,
    /// For a nested form.
    pub nested: Option<Box<Scratch>>,
}

/// Bytes that idle scratch of the whole process may keep: two default scratch limits.
const KEPT_BYTES: usize = 64 << 20;

static POOL: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

impl Scratch {
    /// The scratch for a nested form.
    pub fn nested(&mut self) -> &mut Scratch {
        self.nested.get_or_insert_default()
    }

    /// Scratch from the process's pool, given back when the lease is dropped.
    pub fn lease() -> Lease {
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        Lease(Some(pool.pop().unwrap_or_default()))
    }

    fn held_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.more_bytes.capacity()
            + 4 * (self.floats.capacity() + self.out.capacity() + self.panel.capacity())
            + 4 * self.positions.capacity()
            + self.opened.iter().map(Vec::capacity).sum::<usize>()
            + self.narrowed.iter().map(Vec::capacity).sum::<usize>()
            + self.rounded.iter().map(Rounder::held_bytes).sum::<usize>()
            + size_of::<[f32; TILE_ROWS]>() * self.sums.capacity()
            + self.nested.as_ref().map_or(0, |n| n.held_bytes())
    }
}

/// [`Scratch`] on loan.
#[derive(Debug)]
pub struct Lease(Option<Scratch>);

impl Deref for Lease {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        self.0.as_ref().expect("held until dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0.as_mut().expect("held until dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(scratch) = self.0.take() else {
            return;
        };
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        let kept: usize = pool.iter().map(|s| s.held_bytes()).sum();
        if kept + scratch.held_bytes() <= KEPT_BYTES {
            pool.push(scratch);
        }
    }
}
