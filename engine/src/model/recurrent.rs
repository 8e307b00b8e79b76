//! What recurrent layers keep of one sequence: their states as they are, and as they were where that was marked.
//!
//! Nobody can take a position out of a state again, so [`Recurrent::mark`] has states kept as they are there: snapshots, to
//! which [`Recurrent::rewind`] and [`Recurrent::fork`] go back. They are a convenience, and give way where pages run out.
//! Where the numbers are, in the program's memory or on a card, is for those who have them to say.

use super::pool::{Claim, PAGE, Pool};
use crate::error::Result;
use std::sync::Arc;

/// Snapshots of one sequence, besides its state: the beginnings and ends of the last two turns' prompts.
pub const SNAPSHOTS: usize = 4;

/// How much the states of a model are.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Numbers of all recurrent layers; 0 where there are none.
    pub(super) numbers: usize,
    /// Pages of the pool that they count for.
    pub(super) pages: usize,
}

/// The states of all recurrent layers at one position.
pub(super) struct States<S> {
    pub(super) values: S,
    _claims: Vec<Claim>,
}

/// What the states were after so many positions.
pub(super) struct Snapshot<S> {
    pub(super) len: usize,
    pub(super) states: Arc<States<S>>,
}

impl<S> Clone for Snapshot<S> {
    fn clone(&self) -> Self {
        Self { len: self.len, states: self.states.clone() }
    }
}

/// One sequence's states. `S` are the numbers of all layers.
pub(super) struct Recurrent<S> {
    size: Size,
    now: Option<Arc<States<S>>>, // once any position is held
    snapshots: Vec<Snapshot<S>>, // rising
    marks: Vec<usize>,           // behind what is held, rising
}

impl<S> Recurrent<S> {
    /// Of a sequence without positions.
    pub(super) fn new(size: Size) -> Self {
        Self { size, now: None, snapshots: vec![], marks: vec![] }
    }

    /// Whether the model has any.
    pub(super) fn is_any(&self) -> bool {
        self.size.numbers > 0
    }

    /// How much they are.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The states as they are now; `None` before the first position.
    pub(super) fn now(&self) -> Option<&S> {
        self.now.as_ref().map(|states| &states.values)
    }

    /// The same to be changed: they have been made its own.
    pub(super) fn now_mut(&mut self) -> Option<&mut S> {
        let states = self.now.as_mut()?;
        Some(&mut Arc::get_mut(states).expect("what is written to is not shared").values)
    }

    /// What is kept, the earliest first.
    pub(super) fn snapshots(&self) -> &[Snapshot<S>] {
        &self.snapshots
    }

    /// The states as they are now and those of the snapshot after `len` positions, where that is this sequence's alone.
    pub(super) fn kept_at(&mut self, len: usize) -> Option<(&S, &mut S)> {
        let kept = self.snapshots.iter_mut().find(|snapshot| snapshot.len == len)?;
        Some((&self.now.as_ref()?.values, &mut Arc::get_mut(&mut kept.states)?.values))
    }

    /// A page, for which a snapshot is given up where there is no other.
    pub(super) fn claim(&mut self, pool: &Arc<Pool>) -> Result<Claim> {
        loop {
            match pool.claim() {
                Err(_) if !self.snapshots.is_empty() => drop(self.snapshots.remove(0)),
                claimed => return claimed,
            }
        }
    }

    /// Whether the states have to be copied, or made, before they can change.
    fn has_to_own(&self) -> bool {
        self.is_any() && self.now.as_ref().is_none_or(|states| Arc::strong_count(states) > 1)
    }

    /// States of its own, as they were: `make` copies them, or makes zeros.
    ///
    /// # Errors
    /// When there are no pages for them, or as `make`.
    pub(super) fn own(
        &mut self,
        pool: &Arc<Pool>,
        make: impl FnOnce(Option<&S>) -> Result<S>,
    ) -> Result<bool> {
        if !self.has_to_own() {
            return Ok(false);
        }
        let claims = (0..self.size.pages).map(|_| self.claim(pool)).collect::<Result<_>>()?;
        let values = make(self.now())?;
        self.now = Some(Arc::new(States { values, _claims: claims }));
        Ok(true)
    }

    /// Room for snapshots at the marks that are passed when `len` positions are held, as far as there are pages that
    /// nobody has; tells whether any was made.
    ///
    /// # Errors
    /// As `make`.
    pub(super) fn pass_marks(
        &mut self,
        pool: &Arc<Pool>,
        len: usize,
        make: impl Fn() -> Result<S>,
    ) -> Result<bool> {
        let mut has_made = false;
        while self.marks.first().is_some_and(|mark| *mark <= len) {
            let passed = self.marks.remove(0);
            let claims: Result<Vec<_>> = (0..self.size.pages).map(|_| pool.claim()).collect();
            if let Ok(claims) = claims {
                let states = Arc::new(States { values: make()?, _claims: claims });
                self.add(Snapshot { len: passed, states });
                has_made = true;
            }
        }
        Ok(has_made)
    }

    fn add(&mut self, snapshot: Snapshot<S>) {
        if self.snapshots.len() == SNAPSHOTS {
            self.snapshots.remove(0);
        }
        self.snapshots.push(snapshot);
    }

    /// The latest of the known states that are not behind `len` of the `held` positions: after how many.
    fn nearest(&self, len: usize, held: usize) -> (usize, Option<&Arc<States<S>>>) {
        if len >= held {
            return (held, self.now.as_ref());
        }
        let before = self.snapshots.iter().rev().find(|snapshot| snapshot.len <= len);
        before.map_or((0, None), |snapshot| (snapshot.len, Some(&snapshot.states)))
    }

    /// How many positions can be held of `len` of the `held` ones.
    pub(super) fn reach(&self, len: usize, held: usize) -> usize {
        if self.is_any() { self.nearest(len, held).0 } else { len.min(held) }
    }

    /// Goes back to `len` of the `held` positions, or as far as states are known; tells how many are left.
    pub(super) fn rewind(&mut self, len: usize, held: usize) -> usize {
        self.marks.clear();
        let mut left = len;
        if self.is_any() {
            let (reached, states) = self.nearest(len, held);
            left = reached;
            self.now = states.cloned();
        }
        self.snapshots.retain(|snapshot| snapshot.len <= len);
        self.mark(len, left);
        left
    }

    /// Has the states kept as they are after `len` positions, of which `held` are.
    pub(super) fn mark(&mut self, len: usize, held: usize) {
        if !self.is_any() || len == 0 || self.snapshots.iter().any(|snapshot| snapshot.len == len) {
            return;
        }
        if let (true, Some(states)) = (len == held, &self.now) {
            let states = states.clone();
            self.add(Snapshot { len, states });
        } else if len > held && !self.marks.contains(&len) {
            self.marks.push(len);
            self.marks.sort_unstable();
        }
    }

    /// Pages that have to be claimed before `len` positions are held, where `held` are in these pages: new ones, copies of the
    /// last one and of the states where others have them, too, less those of snapshots, which give way.
    pub(super) fn pages_for<P>(&self, len: usize, held: usize, pages: &[Arc<P>]) -> usize {
        let new = len.div_ceil(PAGE).saturating_sub(pages.len());
        if len <= held {
            return new;
        }
        let is_shared = pages.last().is_some_and(|page| Arc::strong_count(page) > 1);
        let copied = usize::from(!held.is_multiple_of(PAGE) && is_shared);
        let states = usize::from(self.has_to_own()) * self.size.pages;
        let own = self.snapshots.iter().filter(|snapshot| Arc::strong_count(&snapshot.states) == 1).count();
        (new + copied + states).saturating_sub(own * self.size.pages)
    }

    /// What a sequence begins with that takes over [`Recurrent::reach`] of `len` of the `held` positions, `reached`.
    pub(super) fn fork(&self, len: usize, held: usize, reached: usize) -> Self {
        let mut fork = Self::new(self.size);
        if self.is_any() {
            let known = self.snapshots.iter();
            fork.snapshots = known.filter(|snapshot| snapshot.len <= reached).cloned().collect();
            fork.now = self.nearest(reached, held).1.cloned();
            if reached < len.min(held) {
                fork.mark(len.min(held), reached);
            }
        }
        fork
    }
}
