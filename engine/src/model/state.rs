//! What one sequence keeps between steps: how much of each layer, and what can be asked of it wherever it lies.
//!
//! On the host that is `kv_cache.rs`, on a card `backend/cuda/memory.rs`.

use crate::error::Result;

/// What a sequence keeps of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Keys and values of every position.
    Pages(Pages),
    /// An entry for every few positions, and a state.
    Entries(Entries),
    /// So many numbers that every position changes: a recurrent state, zero before the first.
    State(usize),
}

/// Sizes of one layer's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Key and value heads.
    pub heads: usize,
    /// Width of a key.
    pub key_length: usize,
    /// Width of a value; 0 where values are the head of the key (latent attention).
    pub value_length: usize,
    /// Width of the key by which positions are chosen, one for all heads; 0 where all are looked at.
    pub index_length: usize,
}

/// Sizes of what one layer keeps of positions that become one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Positions that become one, a divisor of a page's.
    pub ratio: usize,
    /// Width of an entry.
    pub key_length: usize,
    /// Width of an indexer's entry; 0 without one.
    pub index_length: usize,
    /// Numbers that every position changes: a window of keys, and what is not an entry yet.
    pub state: usize,
}

/// What one sequence keeps between steps: keys and values of its positions, recurrent states.
pub trait State: Sized {
    /// Positions held.
    fn len(&self) -> usize;
    /// Whether none is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Makes room for positions up to `len` and counts them as held.
    ///
    /// # Errors
    /// When a device has no room.
    fn extend_to(&mut self, len: usize) -> Result<()>;
    /// Forgets the positions from `len` on and tells how many are left: a recurrent state goes back to the latest place
    /// where it was kept, and what is missing has to be computed again. It will be kept at `len` when it comes there.
    fn rewind(&mut self, len: usize) -> usize;
    /// Has a recurrent state kept as it is after `len` positions, now or when they are held, as far as there is room.
    fn mark(&mut self, _len: usize) {}
    /// How many positions a [`State::fork`] of `len` would hold.
    fn reach(&self, len: usize) -> usize;
    /// Pages that have to be claimed before positions up to `len` are held.
    fn pages_for(&self, len: usize) -> usize;
    /// A sequence that begins with the first `len` positions of this one, or with fewer: a recurrent state is known at its
    /// end and where it was kept.
    fn fork(&self, len: usize) -> Self;
}
