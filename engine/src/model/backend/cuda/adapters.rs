//! What adapters add to matrices on a card. Their numbers are copied when a step first needs them.

use super::experts::MATRICES;
use super::{Cuda, lock};
use crate::cuda::{ChoicesAt, MatrixAt, Memory, Rows};
use crate::error::Result;
use crate::experts::Stack;
use crate::kernels::LowRank;
use crate::quant::Format;
use bytemuck::{Pod, cast_slice};
use std::collections::HashMap;

/// Adapters by the address of what they belong to.
#[derive(Default)]
pub(super) struct Adapters(HashMap<usize, Home>);

/// Where the two matrices of an adapter are, or tables of theirs for every expert.
struct Home {
    a: MatrixAt,
    b: u64,
    _memory: [Memory; 2],
}

/// `A` of an adapter: a matrix like others.
fn a_of(low_rank: &LowRank, bytes: u64) -> MatrixAt {
    let (rows, cols) = (low_rank.rank(), low_rank.inputs());
    let format = Format::by_name("F32").expect("the table has it");
    MatrixAt { format, rows, cols, is_panels: false, bytes }
}

impl Cuda {
    /// Where the adapter of `owner` is: what `contents` gives for `A` and `B` is copied when it is first asked for.
    fn home<T, P: Pod>(
        &self,
        owner: &T,
        like: &LowRank,
        contents: impl FnOnce() -> Result<[Vec<P>; 2]>,
    ) -> Result<(MatrixAt, u64)> {
        let key = std::ptr::from_ref(owner) as usize;
        if let Some(Home { a, b, .. }) = lock(&self.adapters).0.get(&key) {
            return Ok((*a, *b));
        }
        let [a, b] = contents()?;
        let memory = [self.device().upload(cast_slice(&a))?, self.device().upload(cast_slice(&b))?];
        let (a, b) = (a_of(like, memory[0].address()), memory[1].address());
        lock(&self.adapters).0.insert(key, Home { a, b, _memory: memory });
        Ok((a, b))
    }

    /// Where an adapter is.
    fn adapter(&self, low_rank: &LowRank) -> Result<(MatrixAt, u64)> {
        self.home(low_rank, low_rank, || Ok([low_rank.a().to_vec(), low_rank.b().to_vec()]))
    }

    /// Where the addresses of all experts' are.
    fn adapters_of(&self, stack: &Stack, which: usize) -> Result<(MatrixAt, u64)> {
        self.home(stack, &stack.low_ranks[0], || {
            let mut tables = [(); 2].map(|()| vec![0u64; stack.low_ranks.len() * MATRICES]);
            for (expert, low_rank) in stack.low_ranks.iter().enumerate() {
                let (a, b) = self.adapter(low_rank)?;
                tables[0][expert * MATRICES + which] = a.bytes;
                tables[1][expert * MATRICES + which] = b;
            }
            Ok(tables)
        })
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
