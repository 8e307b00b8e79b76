//! The routed experts of a layer: entries sorted by expert, then one task per expert and range of rows.
//!
//! Each (row, choice) of a batch has a slot; results of gate, up and down go to slots, which makes them disjoint
//! between experts however the router chose.

use super::activations::{Inputs, Quantized};
use super::job::{Job, Output, Pick, Picks, Places};
use super::kernel::{Kernel, rows_per_task};
use super::low_rank::LowRank;
use super::matrix::MatrixRef;
use crate::ops::Activation;
use crate::threads::{SharedSlice, Team};
use std::ops::Range;

/// The entries of a batch sorted by expert, each slot in at most one place. Buffers are kept between layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dispatch {
    /// `input` is the row, `output` the slot `row * used + choice`.
    picks: Vec<Pick>,
    /// The same with the slot as input, for the matrix after the hidden layer.
    slot_picks: Vec<Pick>,
    /// Start of each expert's picks, `(expert_count + 1)`.
    starts: Vec<u32>,
    /// Experts with at least one pick, in order.
    active: Vec<u32>,
    fill: Vec<u32>,
}

impl Dispatch {
    /// Counting sort of `slots` slots, `used` per row; `expert` names each slot's expert, `None` where it was dropped.
    pub(crate) fn sort(
        &mut self,
        expert_count: usize,
        used: usize,
        slots: usize,
        expert: impl Fn(usize) -> Option<u32>,
    ) {
        self.starts.clear();
        self.starts.resize(expert_count + 1, 0);
        (0..slots).filter_map(&expert).for_each(|expert| self.starts[expert as usize + 1] += 1);
        self.active.clear();
        self.active.extend((0..expert_count as u32).filter(|&e| self.starts[e as usize + 1] > 0));
        for e in 0..expert_count {
            self.starts[e + 1] += self.starts[e];
        }
        self.fill.clear();
        self.fill.extend_from_slice(&self.starts[..expert_count]);
        for picks in [&mut self.picks, &mut self.slot_picks] {
            picks.clear();
            picks.resize(self.starts[expert_count] as usize, Pick::default());
        }
        for slot in 0..slots {
            if let Some(expert) = expert(slot) {
                let place = self.fill[expert as usize] as usize;
                self.fill[expert as usize] += 1;
                self.picks[place] = Pick { input: (slot / used) as u32, output: slot as u32 };
                self.slot_picks[place] = Pick { input: slot as u32, output: slot as u32 };
            }
        }
        // Whatever `expert` said the second time: every place was filled once, so no slot is in two of them.
        assert!(
            self.fill.iter().eq(&self.starts[1..]),
            "a slot has the same expert whenever it is asked for"
        );
    }

    /// Experts that have work, in order.
    pub(crate) fn active(&self) -> &[u32] {
        &self.active
    }

    /// Input rows of an expert, and the slot of each result.
    pub(crate) fn picks(&self, expert: u32) -> &[Pick] {
        &self.picks[self.range(expert)]
    }

    fn range(&self, expert: u32) -> Range<usize> {
        self.starts[expert as usize] as usize..self.starts[expert as usize + 1] as usize
    }
}

/// Some experts of a dispatch: those whose weights are there, each once.
#[derive(Clone, Copy)]
pub(crate) struct Share<'a> {
    dispatch: &'a Dispatch,
    experts: &'a [u32],
}

impl<'a> Share<'a> {
    /// # Panics
    /// When an expert is named twice.
    pub(crate) fn new(dispatch: &'a Dispatch, experts: &'a [u32]) -> Self {
        let is_new = |(at, expert): (usize, &u32)| !experts[..at].contains(expert);
        assert!(
            experts.is_sorted_by(|a, b| a < b) || experts.iter().enumerate().all(is_new),
            "experts, each once"
        );
        Self { dispatch, experts }
    }

    /// Slots of these experts.
    fn slots(&self) -> usize {
        self.experts.iter().map(|&expert| self.dispatch.picks(expert).len()).sum()
    }
}

/// The same matrix of several experts of a layer.
pub(crate) trait ExpertMatrices: Sync {
    /// One expert's matrix; all have the same shape and format.
    fn matrix(&self, expert: u32) -> MatrixRef<'_>;
    /// One expert's bias.
    fn bias(&self, expert: u32) -> Option<&[f32]>;
    /// What adapters add to one expert's matrix.
    fn low_rank(&self, _expert: u32) -> Option<&LowRank> {
        None
    }
}

/// Matrices with the kernel of their format.
pub(crate) struct ExpertKernel<'a, M> {
    /// The matrices.
    pub(crate) matrices: &'a M,
    /// The kernel.
    pub(crate) kernel: Kernel,
}

impl<M: ExpertMatrices> ExpertKernel<'_, M> {
    /// # Safety
    /// The columns of `range` of the picks' outputs must be the caller's own, and `output` have room for them.
    unsafe fn rows(
        &self,
        expert: u32,
        inputs: Inputs<'_>,
        picks: Picks<'_>,
        output: Places<'_>,
        range: Range<usize>,
    ) {
        let job = Job::at(self.matrices.matrix(expert), inputs, picks, output);
        // SAFETY: the kernel writes the rows of `range` of these picks, which are the caller's own.
        unsafe { self.kernel.rows(&job, range.clone()) };
        let (bias, low_rank) = (self.matrices.bias(expert), self.matrices.low_rank(expert));
        if bias.is_none() && low_rank.is_none() {
            return;
        }
        for pick in picks.iter() {
            // SAFETY: the same places, which the kernel has left by now.
            let values = unsafe { output.slice(pick.output, range.clone()) };
            if let Some(low_rank) = low_rank {
                low_rank.add(self.kernel.isa(), inputs.row(pick.input), range.clone(), values);
            }
            if let Some(bias) = bias {
                values.iter_mut().zip(&bias[range.clone()]).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

/// Where a hidden layer's results go: `up` ends as the activation's result.
pub(crate) struct Hidden<'a> {
    /// Slots of the gate, unused where there is none.
    pub(crate) gate: Output<'a>,
    /// Slots of the hidden layer.
    pub(crate) up: Output<'a>,
    /// Outputs of either.
    pub(crate) length: usize,
    /// Between them.
    pub(crate) activation: Activation,
}

/// Gate, up and activation of these experts, into slots.
pub(crate) fn hidden<M: ExpertMatrices>(
    team: &Team,
    share: Share<'_>,
    gate: Option<&ExpertKernel<'_, M>>,
    up: &ExpertKernel<'_, M>,
    inputs: Inputs<'_>,
    out: Hidden<'_>,
) {
    let Hidden { length, activation, .. } = out;
    let (up_places, gate_places) = (out.up.places(length), out.gate.places(length));
    each_range(team, share.experts, length, |expert, range| {
        let picks = Picks::new(share.dispatch.picks(expert));
        // SAFETY: a task has its own expert or its own range of it. A share has an expert once, and a dispatch gives a
        // slot to one expert only, so these columns of these slots are the task's own; both buffers came by value.
        unsafe {
            up.rows(expert, inputs, picks, up_places, range.clone());
            if let Some(gate) = gate {
                gate.rows(expert, inputs, picks, gate_places, range.clone());
            }
            for pick in picks.iter() {
                let gate = gate.map(|_| &*gate_places.slice(pick.output, range.clone()));
                activation.combine(up.kernel.isa(), gate, up_places.slice(pick.output, range.clone()));
            }
        }
    });
}

/// The quantized twin of slots `width` wide.
pub(crate) struct SlotCodes<'a> {
    /// Columns.
    pub(crate) width: usize,
    /// `(slots, width)`.
    pub(crate) codes: &'a mut [i8],
    /// `(slots, Quantized::extras_len(width))`.
    pub(crate) extras: &'a mut [u32],
}

/// Quantizes the slots of these experts, `values` being all slots' rows.
pub(crate) fn quantize_slots(
    team: &Team,
    share: Share<'_>,
    kernel: Kernel,
    values: &[f32],
    out: SlotCodes<'_>,
) {
    let (width, extras_len) = (out.width, Quantized::extras_len(out.width));
    let (codes, extras) = (SharedSlice::new(out.codes), SharedSlice::new(out.extras));
    let quantize = |expert: u32| {
        for slot in share.dispatch.picks(expert).iter().map(|pick| pick.output as usize) {
            // SAFETY: an expert is one task, a share has it once, and a dispatch gives a slot to one expert only; the
            // slots came by value.
            let (codes, extras) =
                unsafe { (codes.slice(slot * width, width), extras.slice(slot * extras_len, extras_len)) };
            kernel.quantize(&values[slot * width..][..width], &mut Quantized::new(codes, extras));
        }
    };
    // The few rows of a single token are done before a second thread has woken up.
    match share.slots() {
        0..=8 => share.experts.iter().copied().for_each(quantize),
        _ => team.run(share.experts.len(), |task| quantize(share.experts[task])),
    }
}

/// The matrix after the hidden layer, of `rows` outputs: slots in, slots out.
pub(crate) fn down<M: ExpertMatrices>(
    team: &Team,
    share: Share<'_>,
    down: &ExpertKernel<'_, M>,
    hidden: Inputs<'_>,
    (out, rows): (Output<'_>, usize),
) {
    let places = out.places(rows);
    each_range(team, share.experts, rows, |expert, range| {
        let picks = Picks::new(&share.dispatch.slot_picks[share.dispatch.range(expert)]);
        // SAFETY: as in `hidden`, a task has its own columns of its own slots.
        unsafe { down.rows(expert, hidden, picks, places, range) };
    });
}

/// `work(expert, rows)`: many experts are tasks enough, the rows of a few are cut.
fn each_range(team: &Team, experts: &[u32], rows: usize, work: impl Fn(u32, Range<usize>) + Sync) {
    let chunk = rows_per_task(rows * experts.len(), team.threads());
    let chunks = rows.div_ceil(chunk);
    team.run(experts.len() * chunks, |task| {
        let start = task % chunks * chunk;
        work(experts[task / chunks], start..rows.min(start + chunk));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn an_expert_and_a_slot_are_one_task() {
        let mut dispatch = Dispatch::default();
        dispatch.sort(4, 2, 6, |slot| (slot != 3).then_some(slot as u32 % 3));
        assert_eq!(dispatch.active(), [0, 1, 2]);
        assert_eq!(Share::new(&dispatch, &[2, 0, 1]).slots(), 5);
        assert!(catch_unwind(|| Share::new(&dispatch, &[2, 0, 2]).slots()).is_err());
        // An answer that changes would leave places that nobody filled.
        let asked = Cell::new(0);
        let fickle = |_| {
            asked.set(asked.get() + 1);
            Some(asked.get() % 2)
        };
        assert!(catch_unwind(AssertUnwindSafe(|| Dispatch::default().sort(2, 1, 3, fickle))).is_err());
    }
}
