//! Steps that were written down: a step of the same rows and sequences starts the same kernels with the same places, so
//! that the driver may start all of them in one go.
//!
//! What changes from one to the next (tokens, positions, angles) is copied from the same places of the program's memory by
//! the graph itself. A step is first computed as it is, which makes all buffers as large as it needs them, then written
//! down, then replayed, until memory was asked for anew: from then on places may be others.

use super::super::super::step::{Row, runs};
use super::memory::{best_at, chunks_of};
use super::{Cuda, State, lock};
use crate::cuda::{Device, Graph, Mode, Rows};
use crate::error::Result;

/// Graphs that are kept; the one that was not used for the longest goes.
const MOST: usize = 16;

/// What tells steps apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    rows: usize,
    runs: usize,   // of rows of one sequence
    chunks: usize, // of positions that a head's blocks take
    selected: usize,
    finds_best: bool,
    sequences: Vec<u64>,
}

impl Shape {
    pub(super) fn of(rows: &[Row], states: &[State]) -> Self {
        Self {
            rows: rows.len(),
            runs: runs(rows).count(),
            chunks: chunks_of(rows),
            selected: rows.iter().filter(|row| row.wants.logits()).count(),
            finds_best: best_at(rows).is_some(),
            sequences: states.iter().map(State::place).collect(),
        }
    }
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Compute it.
    Start,
    /// Write it down, then launch what was written.
    Capture,
    /// Launch what was written down.
    Replay,
}

struct Known {
    shape: Shape,
    allocations: u64, // at the end of the step that was computed or written down last
    graph: Option<Graph>,
}

/// Steps seen lately, the latest last.
#[derive(Default)]
pub(super) struct Graphs(Vec<Known>);

impl Graphs {
    /// What to do with a step of this shape.
    pub(super) fn plan(&mut self, device: &Device, shape: &Shape) -> Plan {
        let Some(place) = self.0.iter().position(|known| known.shape == *shape) else { return Plan::Start };
        let known = self.0.remove(place);
        if known.allocations != device.allocations() {
            return Plan::Start;
        }
        let plan = if known.graph.is_some() { Plan::Replay } else { Plan::Capture };
        self.0.push(known);
        plan
    }

    /// Remembers a step that was computed, or written down as a graph.
    pub(super) fn keep(&mut self, device: &Device, shape: Shape, graph: Option<Graph>) {
        self.0.retain(|known| known.shape != shape);
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Known { shape, allocations: device.allocations(), graph });
    }

    /// The graph of a step that is to be replayed.
    pub(super) fn of(&self, shape: &Shape) -> Option<&Graph> {
        self.0.iter().find(|known| known.shape == *shape)?.graph.as_ref()
    }

    /// Forgets a step that failed.
    pub(super) fn forget(&mut self, shape: &Shape) {
        self.0.retain(|known| known.shape != *shape);
    }
}

impl Cuda {
    /// Begins a step: as it is, to be written down, or to be replayed.
    ///
    /// # Errors
    /// When the card has no room, or the driver refuses.
    pub(super) fn try_begin(&self, rows: &[Row], states: &mut [State], may_come_again: bool) -> Result<()> {
        self.device().enter()?;
        let plan = if may_come_again && lock(&self.bank).holds_everything() {
            let shape = Shape::of(rows, states);
            let plan = lock(&self.graphs).plan(self.device(), &shape);
            *lock(&self.current) = Some((shape, plan));
            plan
        } else {
            *lock(&self.current) = None;
            Plan::Start
        };
        let mode = match plan {
            Plan::Start => Mode::Start,
            Plan::Capture => Mode::Write,
            Plan::Replay => Mode::Replay,
        };
        self.kernels.set_mode(mode);
        let mut step = lock(&self.step);
        step.copy_tables(states)?;
        if plan == Plan::Capture {
            self.device().capture()?;
        }
        step.begin(rows, states, mode)
    }

    /// Starts what the step has written down, where it has, and fetches its best tokens or logits.
    ///
    /// # Errors
    /// The first failure since the step began.
    pub(super) fn try_finish(&self, logits: &mut Rows, best: &mut Rows) -> Result<()> {
        let current = lock(&self.current).take();
        self.kernels.set_mode(Mode::Start);
        if let Some((shape, Plan::Capture)) = &current {
            self.kernels.start_written(shape.rows);
        }
        let failure = self.kernels.take_failure();
        let mut graphs = lock(&self.graphs);
        match current {
            Some((shape, Plan::Capture)) => {
                // A capture has to end, whatever became of it.
                let graph = self.device().captured();
                failure?;
                let graph = graph?;
                self.device().launch_graph(&graph)?;
                graphs.keep(self.device(), shape, Some(graph));
            }
            Some((shape, Plan::Replay)) => {
                failure?;
                let launched = graphs.of(&shape).map_or(Ok(()), |graph| self.device().launch_graph(graph));
                if launched.is_err() {
                    graphs.forget(&shape);
                }
                launched?;
            }
            Some((shape, Plan::Start)) => {
                failure?;
                graphs.keep(self.device(), shape, None);
            }
            None => failure?,
        }
        logits.forget();
        best.forget();
        match (best.rows(), logits.rows()) {
            (0, 0) => self.device().wait(),
            (0, _) => logits.fetch(self.device()).map(drop),
            _ => best.fetch(self.device()).map(drop),
        }
    }
}
