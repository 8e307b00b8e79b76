//! Steps that were written down: a step of the same rows and sequences starts the same kernels with the same places, so
//! that the driver may start all of them in one go.
//!
//! What changes from one to the next (tokens, positions, angles) is copied from the same places of the program's memory by
//! the graph itself. A step is first computed as it is, which makes all buffers as large as it needs them, then written
//! down, then replayed, until memory was asked for anew: from then on places may be others.

use super::State;
use crate::cuda::{Device, Graph};

/// Graphs that are kept; the one that was not used for the longest goes.
const MOST: usize = 16;

/// What tells steps apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    rows: usize,
    selected: usize,
    sequences: Vec<u64>,
}

impl Shape {
    pub(super) fn of(rows: usize, selected: usize, states: &[State]) -> Self {
        Self { rows, selected, sequences: states.iter().map(State::place).collect() }
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
