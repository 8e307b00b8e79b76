//! What adapters add to matrices on a card. Their numbers are copied when a step first needs them.

use super::{Cuda, lock};
use crate::cuda::{ChoicesAt, MatrixAt, Memory, Rows};
use crate::error::Result;
use crate::experts::Stack;
use crate::kernels::LowRank;
use crate::quant::Format;
use bytemuck::cast_slice;
use std::collections::HashMap;

/// An expert's matrices in a table of addresses: gate, up, down.
const MATRICES: usize = 3;

/// Adapters by the address of what they belong to.
#[derive(Default)]
pub(super) struct Adapters(HashMap<usize, Home>);

/// Where the two matrices of an adapter are, or tables of theirs for every expert.
struct Home {
    a: MatrixAt,
    b: u64,
    _memory: Vec<Memory>,
}

/// `A` of an adapter: a matrix like others.
fn a_of(low_rank: &LowRank, bytes: u64) -> MatrixAt {
    let (rows, cols) = (low_rank.rank(), low_rank.inputs());
    let format = Format::by_name("F32").expect("the table has it");
    MatrixAt { format, rows, cols, is_panels: false, bytes }
}

impl Cuda {
    /// Where an adapter is.
    fn adapter(&self, low_rank: &LowRank) -> Result<(MatrixAt, u64)> {
        let key = std::ptr::from_ref(low_rank) as usize;
        if let Some(Home { a, b, .. }) = lock(&self.adapters).0.get(&key) {
            return Ok((*a, *b));
        }
        let memory = [low_rank.a(), low_rank.b()].map(|values| self.device().upload(cast_slice(values)));
        let [a, b] = memory;
        let (a, b) = (a?, b?);
        let found = (a_of(low_rank, a.address()), b.address());
        let home = Home { a: found.0, b: found.1, _memory: vec![a, b] };
        lock(&self.adapters).0.insert(key, home);
        Ok(found)
    }

    /// Where those of all experts are.
    fn adapters_of(&self, stack: &Stack, which: usize) -> Result<(MatrixAt, u64)> {
        let key = std::ptr::from_ref(stack) as usize;
        if let Some(Home { a, b, .. }) = lock(&self.adapters).0.get(&key) {
            return Ok((*a, *b));
        }
        let count = stack.low_ranks.len();
        let (mut a_at, mut b_at) = (vec![0u64; count * MATRICES], vec![0u64; count * MATRICES]);
        for (expert, low_rank) in stack.low_ranks.iter().enumerate() {
            let (a, b) = self.adapter(low_rank)?;
            a_at[expert * MATRICES + which] = a.bytes;
            b_at[expert * MATRICES + which] = b;
        }
        let (a_home, b_home) =
            (self.device().upload(cast_slice(&a_at))?, self.device().upload(cast_slice(&b_at))?);
        let found = (a_of(&stack.low_ranks[0], a_home.address()), b_home.address());
        let home = Home { a: found.0, b: found.1, _memory: vec![a_home, b_home] };
        lock(&self.adapters).0.insert(key, home);
        Ok(found)
    }

    /// `out[.., at..] += B (A x)`.
    pub(super) fn add_adapter(&self, low_rank: &LowRank, x: &mut Rows, out: &mut Rows, at: usize) {
        let Some((a, b)) = self.kernels.ok(self.adapter(low_rank)) else { return };
        let mut inner = self.take_scratch();
        self.kernels.resize(&mut inner, x.rows(), a.rows);
        self.kernels.multiply(a, 0, x, &mut inner, 0);
        self.kernels.add_low_rank(&inner, b, low_rank.outputs(), out, at);
        self.give_scratch(inner);
    }

    /// The same for the slots of experts that have an address.
    pub(super) fn add_expert_adapters(
        &self,
        (stack, which): (&Stack, usize),
        (choices, addresses): (ChoicesAt, u64),
        x: &mut Rows,
        out: &mut Rows,
    ) {
        if stack.low_ranks.is_empty() {
            return;
        }
        let Some((a, b)) = self.kernels.ok(self.adapters_of(stack, which)) else { return };
        let mut inner = self.take_scratch();
        self.kernels.resize(&mut inner, out.rows(), a.rows);
        let every = MatrixAt { bytes: 0, ..a };
        self.kernels.multiply_experts((every, which, 0), choices, a.bytes, x, &mut inner);
        self.kernels.add_low_rank_slots(&inner, (b, which), (choices, addresses), out);
        self.give_scratch(inner);
    }
}
