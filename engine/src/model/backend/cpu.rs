//! The fast backend: quantized kernels on the worker team.

use super::super::kv_cache::KvCache;
use super::super::matrix::{Linear, Matrix, NormWeights};
use super::super::moe::{Router, Routing, Shape};
use super::super::observe::{Observe, Site};
use super::super::pool::PAGE;
use super::super::pool::Pool;
use super::super::state::Memory;
use super::super::step::{
    AttentionStep, Best, ChoiceStep, ConvStep, EntriesStep, Factor, Row, ScanStep, Span, Update,
};
use super::super::streams::{Mixing, Streams};
use super::along;
use super::chosen::{self, Chosen};
use super::entries::{self, Look, Seen};
use super::host::{self, HostBuffer, Kept, Step, host_steps};
use super::streams;
use super::{Backend, ExpertStep};
use crate::error::Result;
use crate::experts::{ExpertLayer, ExpertStore, Group, GroupMatrix, Turn};
use crate::gguf::TensorName;
use crate::kernels::{
    self, Attended, AttentionKernel, Choice, Convolution, ExpertKernel, Gathered, Heads, Hidden, IndexJob,
    Job, Kernel, MatrixRef, Output, Queries, Relevance, RowBlock, Scan, ScanHead, Share, Taken,
    attend_gathered, attention, attention_to, convolve, matmul, relevance, scan, score_page, select,
    select_attention,
};
use crate::ops::{Activation, Rope};
use crate::quant::{FORMATS, Format};
use crate::simd::Isa;
use crate::threads::Team;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};

/// Queries that share one pass over the cache, in so many rows of a sequence.
const ATTENTION_QUERIES: usize = 128;
const ATTENTION_ROWS: std::ops::RangeInclusive<usize> = 16..=64;

/// Kernels of one instruction set on a team of threads.
pub struct Cpu {
    team: Team,
    isa: Isa,
    /// One per entry of [`FORMATS`].
    kernels: Vec<Kernel>,
    blocks: Kept<Vec<RowBlock>>,
    scores: Kept<Vec<f32>>,
    scratch: Kept<HostBuffer>,
    seen: Box<Kept<Seen>>,
    step: Step,
}

impl Cpu {
    /// A backend on `threads` threads.
    ///
    /// # Panics
    /// When this machine lacks the instruction set.
    pub fn new(isa: Isa, threads: usize) -> Self {
        let kernels = FORMATS.iter().map(|format| select(format, isa)).collect();
        let (blocks, scores, scratch, seen, step) = Default::default();
        Self { team: Team::new(threads), isa, kernels, blocks, scores, scratch, seen, step }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads at work.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    fn kernel(&self, format: &Format) -> Kernel {
        let place = FORMATS.iter().position(|known| known == format);
        self.kernels[place.expect("bound formats come from the table")]
    }

    /// A plain matmul of all rows of `x`.
    fn multiply(&self, matrix: MatrixRef<'_>, x: &mut HostBuffer, out: &mut HostBuffer, at: usize) {
        let kernel = self.kernel(matrix.format);
        x.prepare(&self.team, kernel);
        let (inputs, picks) = x.inputs();
        let inputs = self.step.inputs(inputs);
        let stride = out.width();
        let output = Output::new(out.values_mut(), stride, at);
        matmul(&self.team, kernel, Job::new(matrix, inputs, picks, output));
    }
}

/// Cuts the rows of a batch that are `wanted` where the sequence changes or positions do not follow, and after so many that
/// there are [`ATTENTION_QUERIES`], each row having `queries`.
fn row_blocks(rows: &[Row], queries: usize, wanted: impl Fn(usize) -> bool, blocks: &mut Vec<RowBlock>) {
    blocks.clear();
    let most = (ATTENTION_QUERIES / queries).clamp(*ATTENTION_ROWS.start(), *ATTENTION_ROWS.end());
    for (i, row) in rows.iter().enumerate().filter(|(i, _)| wanted(*i)) {
        match blocks.last_mut() {
            Some(block)
                if block.sequence == row.sequence
                    && block.row + block.rows == i
                    && block.position + block.rows == row.position
                    && block.rows < most =>
            {
                block.rows += 1;
            }
            _ => blocks.push(RowBlock { row: i, rows: 1, position: row.position, sequence: row.sequence }),
        }
    }
}

impl Backend for Cpu {
    type Turn<'s> = Turn<'s>;

    host_steps!();

    fn linear(&self, linear: &Linear, x: &mut HostBuffer, out: &mut HostBuffer, at: usize) {
        out.resize(x.rows(), out.width());
        self.multiply(linear.matrix.view(), x, out, at);
        if let Some(low_rank) = &linear.low_rank {
            let outputs = low_rank.outputs();
            host::each_row(&self.team, out, |row, values| {
                low_rank.add(self.isa, x.row(row), 0..outputs, &mut values[at..at + outputs]);
            });
        }
        if let Some(bias) = &linear.bias {
            host::each_row(&self.team, out, |_, row| {
                row[at..].iter_mut().zip(&**bias).for_each(|(value, bias)| *value += bias);
            });
        }
    }

    fn linear_heads(&self, heads: &[Matrix], x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
        let mut input = self.scratch.take();
        for (i, head) in heads.iter().enumerate() {
            input.resize(x.rows(), from.width);
            let piece = Span { at: from.at + i * from.stride, count: 1, ..from };
            let whole = Span { at: 0, count: 1, width: from.width, stride: from.width };
            host::copy_span(&self.team, x, piece, &mut input, whole);
            self.multiply(head.view(), &mut input, out, to.at + i * to.stride);
        }
        self.scratch.give(input);
    }

    fn attention(
        &self,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        states: &[KvCache],
        out: &mut HostBuffer,
    ) {
        self.attend(step, queries, states, |_| true, out);
    }

    fn choose(&self, step: &ChoiceStep<'_>, x: &HostBuffer, states: &[KvCache], chosen: &mut Chosen) {
        let mut scores = self.scores.take();
        let score = |cache: &KvCache, page: usize, rows: Range<usize>, out: &mut [f32]| {
            let job = IndexJob {
                keys: cache.index(step.layer),
                page,
                format: cache.format(),
                key_length: step.queries.width,
                x: x.values(),
                width: x.width(),
                rows,
                queries: step.queries.at,
                weights: step.weights,
                heads: step.queries.count,
            };
            score_page(self.isa, &job, out);
        };
        chosen::choose(&self.team, step, states, &mut scores, score, chosen);
        self.scores.give(scores);
    }

    fn attention_to(
        &self,
        chosen: &Chosen,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        states: &[KvCache],
        out: &mut HostBuffer,
    ) {
        let heads = self.attend(step, queries, states, |row| chosen.of(row).is_none(), out);
        let mut blocks = self.blocks.take();
        blocks.clear();
        let rows = step.rows.iter().enumerate().filter(|(i, _)| chosen.of(*i).is_some());
        blocks.extend(rows.map(|(i, row)| RowBlock {
            row: i,
            rows: 1,
            position: row.position,
            sequence: row.sequence,
        }));
        let width = out.width();
        let output = Output::new(out.values_mut(), width, 0);
        let attended = |block: &RowBlock| attended(step, queries, &states[block.sequence]);
        let (format, kernel) = self.cached(states);
        let choice = Choice {
            of: |block: &RowBlock| chosen.of(block.row).unwrap_or_default(),
            key_bytes: format.row_bytes(step.queries.width),
        };
        attention_to(&self.team, kernel, (&blocks, heads), attended, choice, output);
        self.blocks.give(blocks);
    }

    fn convolve(&self, step: &ConvStep<'_>, x: &mut HostBuffer, states: &mut [KvCache]) {
        let width = x.width();
        let mut x = Output::new(x.values_mut(), width, step.at);
        let ConvStep { layer, channels, activation, .. } = *step;
        let (weights, bias) = (&**step.weights, step.bias.map(|bias| &**bias));
        along::along(step.rows, states, (layer, 0..step.state_len()), |state, rows| {
            let job = Convolution { row: rows.start, rows: rows.len(), weights, bias, activation, channels };
            convolve(&self.team, self.isa, &job, x.again(), state);
        });
    }

    fn scan(&self, step: &ScanStep<'_>, x: &HostBuffer, states: &mut [KvCache], out: &mut HostBuffer) {
        let mut factors = self.scratch.take();
        along::scan_factors(&self.team, step, x, &mut factors);
        let (heads, value_length) = (step.values.count, step.values.width);
        out.resize(x.rows(), heads * value_length);
        let mut output = Output::new(out.values_mut(), heads * value_length, 0);
        let part = step.state_at..step.state_at + heads * step.head_len();
        along::along(step.rows, states, (step.layer, part), |state, rows| {
            let job = Scan {
                x: x.values(),
                width: x.width(),
                row: rows.start,
                rows: rows.len(),
                heads,
                key_length: step.keys.width,
                value_length,
                factors: factors.values(),
            };
            let head = |head| ScanHead {
                query: step.queries.at + step.key_head(head) * step.queries.stride,
                key: step.keys.at + step.key_head(head) * step.keys.stride,
                value: step.values.at + head * step.values.stride,
                taken: match step.update {
                    Update::Delta { .. } => Taken::Difference,
                    Update::Whole { skip } => Taken::Whole(skip[head]),
                },
            };
            scan(&self.team, self.isa, &job, head, state, output.again());
        });
        self.scratch.give(factors);
    }

    fn attend_entries(
        &self,
        step: &EntriesStep<'_>,
        x: &HostBuffer,
        angles: &HostBuffer,
        states: &mut [KvCache],
        out: &mut HostBuffer,
    ) {
        let mut seen = self.seen.take();
        entries::attend((&self.team, &self.isa), step, (x, angles), states, (out, &mut seen));
        self.seen.give(seen);
    }

    fn ask<'s>(&self, store: &'s ExpertStore, layer: usize, routing: &Routing) -> Result<Turn<'s>> {
        store.turn(layer, routing.rows(), routing.dispatch())
    }

    fn collect<O: Observe>(
        &self,
        mut turn: Turn<'_>,
        mut step: ExpertStep<'_, Self>,
        observe: &mut O,
    ) -> Result<()> {
        let (layer, rows) = (step.layer, step.routing.rows());
        turn.expect(step.ahead.strongest(step.store.look_ahead(layer + 1, rows)));
        self.begin_experts(step.store.layer(layer), &mut step);
        while let Some(group) = turn.next_group()? {
            self.hidden(&group, group.experts(), &mut step);
            if O::ACTIVE {
                show_experts(group.experts(), &step, observe);
            }
            self.down(&group, group.experts(), &mut step);
        }
        drop(turn);
        self.combine(&mut step);
        Ok(())
    }
}

/// The kernels' products of attention to entries.
impl Look for Isa {
    fn relevance(&self, of: &Relevance<'_>, key: &[f32]) -> f32 {
        relevance(*self, of, key)
    }

    fn attend(&self, gathered: &Gathered<'_>, scores: &mut [f32], out: &mut [f32]) {
        attend_gathered(*self, gathered, scores, out);
    }
}

/// What the queries of a sequence's first key head look at.
fn attended<'a>(step: &AttentionStep<'a>, queries: &'a HostBuffer, cache: &'a KvCache) -> Attended<'a> {
    Attended {
        keys: cache.keys(step.layer),
        values: cache.values(step.layer),
        page_len: PAGE,
        key_length: step.queries.width,
        value_length: step.value_length,
        scale: step.scale,
        window: step.window,
        sinks: step.sinks.map(|sinks| &**sinks),
        queries: Queries {
            values: queries.values(),
            width: queries.width(),
            at: step.queries.at,
            first: 0,
            count: step.queries.count / step.keys.count,
            stride: step.queries.stride,
        },
    }
}

impl Cpu {
    /// The format of caches and its kernel.
    fn cached(&self, states: &[KvCache]) -> (&'static Format, AttentionKernel) {
        let format = states.first().map_or(&FORMATS[0], |cache| cache.format());
        (format, select_attention(format, self.isa))
    }

    /// Attention of the rows that are wanted over all that they may see.
    fn attend(
        &self,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        states: &[KvCache],
        wanted: impl Fn(usize) -> bool,
        out: &mut HostBuffer,
    ) -> Heads {
        let width = step.queries.count * step.value_length;
        out.resize(step.rows.len(), width);
        let output = Output::new(out.values_mut(), width, 0);
        let mut blocks = self.blocks.take();
        let sharing = step.queries.count / step.keys.count;
        row_blocks(step.rows, sharing, wanted, &mut blocks);
        let heads = Heads { keys: step.keys.count, sharing, value_length: step.value_length };
        let attended = |block: &RowBlock| attended(step, queries, &states[block.sequence]);
        attention(&self.team, self.cached(states).1, &blocks, heads, attended, output);
        self.blocks.give(blocks);
        heads
    }
}

fn show_experts<O: Observe>(experts: &[u32], step: &ExpertStep<'_, Cpu>, observe: &mut O) {
    let names = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
        .map(|part| TensorName::in_layer(step.layer, part).to_string());
    let mut rows = vec![];
    let dispatch = step.routing.dispatch();
    for &expert in experts {
        for (tensor, buffer, slots) in [
            (&names[0], &*step.normed, false),
            (&names[1], &*step.normed, false),
            (&names[2], &step.hidden.up, true),
        ] {
            rows.clear();
            for pick in dispatch.picks(expert) {
                rows.extend_from_slice(buffer.row(if slots { pick.output } else { pick.input } as usize));
            }
            observe.matmul_input(Site { tensor, expert: Some(expert) }, &rows, buffer.width());
        }
    }
}

/// The routed experts of one layer and batch, a group of them at a time.
impl Cpu {
    /// Sizes the slots' buffers and quantizes what all experts read.
    pub(super) fn begin_experts(&self, stacks: &ExpertLayer, step: &mut ExpertStep<'_, Self>) {
        let (slots, length) = (step.routing.rows() * step.routing.used(), step.experts.length);
        step.hidden.up.resize(slots, length);
        step.hidden.gate.resize(if stacks.gate.is_some() { slots } else { 0 }, length);
        step.hidden.out.resize(slots, stacks.down.rows);
        for stack in stacks.gate.iter().chain([&stacks.up]) {
            step.normed.prepare(&self.team, self.kernel(stack.format));
        }
    }

    fn expert_kernel<'a>(&self, part: &'a GroupMatrix<'a>) -> ExpertKernel<'a, GroupMatrix<'a>> {
        ExpertKernel { matrices: part, kernel: self.kernel(part.stack().format) }
    }

    /// Gate, up and activation of some of a group.
    pub(super) fn hidden(&self, group: &Group<'_>, experts: &[u32], step: &mut ExpertStep<'_, Self>) {
        let share = Share::new(step.routing.dispatch(), experts);
        let Shape { length, activation, .. } = *step.experts;
        let out = Hidden {
            gate: Output::new(step.hidden.gate.values_mut(), length, 0),
            up: Output::new(step.hidden.up.values_mut(), length, 0),
            length,
            activation,
        };
        let (gate, up) = (group.gate(), group.up());
        let (gate, up) = (gate.as_ref().map(|gate| self.expert_kernel(gate)), self.expert_kernel(&up));
        kernels::hidden(&self.team, share, gate.as_ref(), &up, self.step.inputs(step.normed.inputs().0), out);
    }

    /// Down of the same.
    pub(super) fn down(&self, group: &Group<'_>, experts: &[u32], step: &mut ExpertStep<'_, Self>) {
        let share = Share::new(step.routing.dispatch(), experts);
        let (part, stride) = (group.down(), step.hidden.out.width());
        let down = self.expert_kernel(&part);
        step.hidden.up.prepare_slots(&self.team, down.kernel, share);
        let out = Output::new(step.hidden.out.values_mut(), stride, 0);
        let inputs = self.step.inputs(step.hidden.up.inputs().0);
        kernels::down(&self.team, share, &down, inputs, (out, stride));
    }

    /// Adds the kept slots of each row, the strongest choice first.
    fn combine(&self, step: &mut ExpertStep<'_, Self>) {
        let (routing, out) = (step.routing, &step.hidden.out);
        host::each_row(&self.team, step.added, |row, sum| {
            for (i, choice) in routing.choices(row).iter().enumerate() {
                if !routing.is_dropped(row, i) {
                    let slot = out.row(row * routing.used() + i);
                    sum.iter_mut().zip(slot).for_each(|(sum, value)| *sum += choice.score * value);
                }
            }
        });
    }
}
