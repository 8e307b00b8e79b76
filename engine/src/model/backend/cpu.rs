//! The fast backend: quantized kernels on the worker team.

use super::super::config::{Config, Experts};
use super::super::kv_cache::{KvCache, PAGE};
use super::super::moe::Routing;
use super::super::observe::{Observe, Site};
use super::super::transformer::{AttentionStep, Row, Span, Workspace};
use super::super::weights::{Linear, Matrix, NormWeights};
use super::Backend;
use super::host::{self, HostBuffer, host_steps};
use crate::error::Result;
use crate::experts::{ExpertLayer, ExpertStore, Stack};
use crate::kernels::{
    AttentionTask, Inputs, Job, Kernel, MatrixRef, Output, Pick, Queries, matmul, rows_per_task, select,
    select_attention,
};
use crate::ops::{Activation, Rope};
use crate::quant::{FORMATS, Format};
use crate::simd::Isa;
use crate::threads::{SharedSlice, Team};
use std::borrow::Cow;

/// Rows of a sequence that share one pass over the cache.
const ATTENTION_ROWS: usize = 16;

/// Kernels of one instruction set on a team of threads.
pub struct Cpu {
    team: Team,
    isa: Isa,
    /// One per entry of [`FORMATS`].
    kernels: Vec<Kernel>,
}

impl Cpu {
    /// A backend on `threads` threads.
    ///
    /// # Panics
    /// When this machine lacks the instruction set.
    pub fn new(isa: Isa, threads: usize) -> Self {
        Self {
            team: Team::new(threads),
            isa,
            kernels: FORMATS.iter().map(|format| select(format, isa)).collect(),
        }
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
        let stride = out.width();
        let output = Output::new(out.values_mut(), stride, at);
        matmul(&self.team, kernel, &Job { matrix, inputs, picks, output });
    }
}

/// Rows of one sequence at consecutive positions.
struct RowBlock {
    first: usize,
    len: usize,
}

/// The `n`th block of at most [`ATTENTION_ROWS`] rows; walking is cheap beside what a block costs.
fn row_blocks(rows: &[Row]) -> impl Iterator<Item = RowBlock> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let start = rows.get(first)?;
        let follows = |(i, row): (usize, &Row)| {
            row.sequence == start.sequence && row.position == start.position + i && i < ATTENTION_ROWS
        };
        let len = rows[first..].iter().enumerate().take_while(|&(i, row)| follows((i, row))).count();
        let block = RowBlock { first, len };
        first += len;
        Some(block)
    })
}

impl Backend for Cpu {
    host_steps!();

    fn linear(&self, linear: &Linear, x: &mut HostBuffer, out: &mut HostBuffer, at: usize) {
        out.resize(x.rows(), out.width());
        self.multiply(linear.matrix.view(), x, out, at);
        if let Some(bias) = &linear.bias {
            host::each_row(&self.team, out, |_, row| {
                row[at..].iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            });
        }
    }

    fn linear_heads(&self, heads: &[Matrix], x: &HostBuffer, from: Span, out: &mut HostBuffer, to: Span) {
        let mut input = HostBuffer::new(from.width);
        for (i, head) in heads.iter().enumerate() {
            input.resize(x.rows(), from.width);
            let piece = Span { at: from.at + i * from.stride, count: 1, ..from };
            let whole = Span { at: 0, count: 1, width: from.width, stride: from.width };
            host::copy_span(&self.team, x, piece, &mut input, whole);
            self.multiply(head.view(), &mut input, out, to.at + i * to.stride);
        }
    }

    fn attention(
        &self,
        step: &AttentionStep<'_>,
        queries: &HostBuffer,
        caches: &[&mut KvCache],
        out: &mut HostBuffer,
    ) {
        let width = step.queries.count * step.value_length;
        out.resize(step.rows.len(), width);
        let output = Output::new(out.values_mut(), width, 0);
        let (heads, shared) = (step.keys.count, step.queries.count / step.keys.count);
        let blocks = row_blocks(step.rows).count();
        self.team.run(blocks * heads, |task| {
            let block = row_blocks(step.rows).nth(task / heads).expect("counted above");
            let (head, row) = (task % heads, step.rows[block.first]);
            let cache = &caches[row.sequence];
            let task = AttentionTask {
                keys: cache.keys(step.layer),
                values: cache.values(step.layer),
                head,
                page_len: PAGE,
                key_length: step.queries.width,
                value_length: step.value_length,
                scale: step.scale,
                window: step.window,
                sinks: step.sinks,
                queries: Queries {
                    values: queries.values(),
                    width: queries.width(),
                    at: step.queries.at + head * shared * step.queries.stride,
                    first: head * shared,
                    count: shared,
                    stride: step.queries.stride,
                },
                row: block.first,
                rows: block.len,
                position: row.position,
                output,
            };
            attend(select_attention(cache.format(), self.isa), &task);
        });
    }

    fn experts<O: Observe>(
        &self,
        store: &ExpertStore,
        layer: usize,
        experts: &Experts,
        ws: &mut Workspace<HostBuffer>,
        observe: &mut O,
    ) -> Result<()> {
        store.announce(layer, ws.routing.active());
        let step = ExpertStep { cpu: self, stacks: store.layer(layer), experts };
        step.hidden(ws);
        if O::ACTIVE {
            show_experts(layer, ws, observe);
        }
        step.down(ws);
        step.combine(ws);
        Ok(())
    }
}

#[allow(unsafe_code)]
fn attend(kernel: crate::kernels::AttentionKernel, task: &AttentionTask<'_>) {
    // SAFETY: every task has its own rows and heads of the output; the kernel was selected for this machine.
    unsafe { kernel(task) }
}

fn show_experts<O: Observe>(layer: usize, ws: &Workspace<HostBuffer>, observe: &mut O) {
    let names = ["gate", "up", "down"].map(|part| format!("blk.{layer}.ffn_{part}_exps"));
    let mut rows = vec![];
    for &expert in ws.routing.active() {
        for (tensor, buffer, slots) in
            [(&names[0], &ws.normed, false), (&names[1], &ws.normed, false), (&names[2], &ws.expert_up, true)]
        {
            rows.clear();
            for pick in ws.routing.picks(expert) {
                rows.extend_from_slice(buffer.row(if slots { pick.output } else { pick.input } as usize));
            }
            observe.matmul_input(Site { tensor, expert: Some(expert) }, &rows, buffer.width());
        }
    }
}

/// The routed experts of one layer and batch.
struct ExpertStep<'a> {
    cpu: &'a Cpu,
    stacks: &'a ExpertLayer,
    experts: &'a Experts,
}

impl ExpertStep<'_> {
    /// Gate, up and activation: one task per expert and range of hidden units. Results go to slots.
    fn hidden(&self, ws: &mut Workspace<HostBuffer>) {
        let team = &self.cpu.team;
        let slots = ws.routing.rows() * ws.routing.used();
        ws.expert_up.resize(slots, self.experts.length);
        ws.expert_gate.resize(if self.stacks.gate.is_some() { slots } else { 0 }, self.experts.length);
        for stack in self.stacks.gate.iter().chain([&self.stacks.up]) {
            ws.normed.prepare(team, self.cpu.kernel(stack.format));
        }
        let (inputs, _) = ws.normed.inputs();
        let gate = Output::new(ws.expert_gate.values_mut(), self.experts.length, 0);
        let up = Output::new(ws.expert_up.values_mut(), self.experts.length, 0);
        let routing = &ws.routing;
        self.each_panel(routing, self.experts.length, |expert, start, end| {
            let picks = routing.picks(expert);
            self.rows(&self.stacks.up, expert, inputs, picks, up, start..end);
            if let Some(stack) = &self.stacks.gate {
                self.rows(stack, expert, inputs, picks, gate, start..end);
            }
            for pick in picks {
                let at = pick.output as usize * self.experts.length + start;
                let up = own(up.values, at, end - start);
                let gate = self.stacks.gate.as_ref().map(|_| &*own(gate.values, at, end - start));
                self.experts.activation.combine(gate, up);
            }
        });
    }

    fn down(&self, ws: &mut Workspace<HostBuffer>) {
        let stack = &self.stacks.down;
        let slots = ws.expert_up.rows();
        ws.expert_up.prepare(&self.cpu.team, self.cpu.kernel(stack.format));
        ws.expert_out.resize(slots, stack.rows);
        let (inputs, own_slots) = ws.expert_up.inputs();
        let out = Output::new(ws.expert_out.values_mut(), stack.rows, 0);
        let routing = &ws.routing;
        self.each_panel(routing, stack.rows, |expert, start, end| {
            PICKS.with_borrow_mut(|picks| {
                picks.clear();
                picks.extend(routing.picks(expert).iter().map(|pick| own_slots[pick.output as usize]));
                self.rows(stack, expert, inputs, picks, out, start..end);
            });
        });
    }

    /// Adds the kept slots of each row, the strongest choice first.
    fn combine(&self, ws: &mut Workspace<HostBuffer>) {
        let (routing, out) = (&ws.routing, &ws.expert_out);
        host::each_row(&self.cpu.team, &mut ws.added, |row, sum| {
            for (i, choice) in routing.choices(row).iter().enumerate() {
                if !routing.is_dropped(row, i) {
                    let slot = out.row(row * routing.used() + i);
                    sum.iter_mut().zip(slot).for_each(|(sum, value)| *sum += choice.score * value);
                }
            }
        });
    }

    /// `work(expert, first row, end row)` over panels of all active experts.
    fn each_panel(&self, routing: &Routing, rows: usize, work: impl Fn(u32, usize, usize) + Sync) {
        let active = routing.active();
        // Many experts are tasks enough; a few are cut into panels.
        let threads = self.cpu.team.threads();
        let chunk = rows_per_task(rows * active.len().max(1), threads).min(rows.max(1));
        let chunks = rows.div_ceil(chunk);
        self.cpu.team.run(active.len() * chunks, |task| {
            let start = task % chunks * chunk;
            work(active[task / chunks], start, rows.min(start + chunk));
        });
    }

    #[allow(unsafe_code)]
    fn rows(
        &self,
        stack: &Stack,
        expert: u32,
        inputs: Inputs<'_>,
        picks: &[Pick],
        output: Output<'_>,
        range: std::ops::Range<usize>,
    ) {
        let job = Job { matrix: stack.expert(expert), inputs, picks, output };
        // SAFETY: a task has its own expert, whose slots no other expert has, or its own range of rows.
        unsafe { self.cpu.kernel(stack.format).rows(&job, range.clone()) };
        if let Some(bias) = stack.expert_bias(expert) {
            for pick in picks {
                let at = pick.output as usize * output.stride + output.at + range.start;
                let values = own(output.values, at, range.len());
                values.iter_mut().zip(&bias[range.clone()]).for_each(|(value, bias)| *value += bias);
            }
        }
    }
}

thread_local! {
    /// Slots of one expert as picks of the down matmul.
    static PICKS: std::cell::RefCell<Vec<Pick>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[allow(unsafe_code)]
fn own<'a>(values: SharedSlice<'a, f32>, start: usize, len: usize) -> &'a mut [f32] {
    // SAFETY: called only for places of the running task.
    unsafe { values.slice(start, len) }
}
