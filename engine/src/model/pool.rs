//! Which pages of keys and values there may be: sequences claim them from one pool and may share them.
//!
//! Nothing is held here but the count. A page goes back when the last sequence that has it forgets it.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Positions per page.
pub const PAGE: usize = 256;

/// So many pages, each with [`PAGE`] positions of every layer.
#[derive(Debug)]
pub struct Pool {
    most: usize,
    used: AtomicUsize,
}

/// A page that is in use.
#[derive(Debug)]
pub(super) struct Claim(Arc<Pool>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of at most so many pages.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }

    /// Pages in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Pages that nobody has.
    pub fn free(&self) -> usize {
        self.most - self.used()
    }

    /// Pages in all.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes a page.
    ///
    /// # Errors
    /// When none is free.
    pub(super) fn claim(self: &Arc<Self>) -> Result<Claim> {
        let take = |used| (used < self.most).then_some(used + 1);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map_err(|_| Error::PoolFull(self.most))?;
        Ok(Claim(self.clone()))
    }
}
