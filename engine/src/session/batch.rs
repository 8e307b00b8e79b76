//! A [`Batch`] computes steps: rows of its sequences through the model, on whichever backend the engine has.
//!
//! This is the one place where backends lose their type.

use super::{CapacityMode, Engine};
use crate::error::{Error, Result};
use crate::model::{
    Backend, Best, Cpu, Cuda, CudaState, KvCache, Model, Nothing, Observe, Plain, Row, State, Workspace,
    forward,
};
use crate::quant::Format;

/// What the model computes on.
pub(super) enum AnyBackend {
    Cpu(Cpu),
    Plain(Plain),
    Cuda(Box<Cuda>),
}

/// What a sequence holds outside of a batch: a beginning that others may share.
pub struct Sequence(AnyState);

enum AnyState {
    Host(KvCache),
    Cuda(Box<CudaState>),
}

impl Sequence {
    /// Positions held.
    pub fn len(&self) -> usize {
        match &self.0 {
            AnyState::Host(state) => state.len(),
            AnyState::Cuda(state) => state.len(),
        }
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many positions a [`Sequence::fork`] of `len` would hold.
    pub fn reach(&self, len: usize) -> usize {
        match &self.0 {
            AnyState::Host(state) => state.reach(len),
            AnyState::Cuda(state) => state.reach(len),
        }
    }

    /// A sequence that begins with the first `len` positions of this one, or with fewer: a recurrent state is known at its
    /// end and where it was marked, and a card shares whole pages. It is marked where it should have begun.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        Self(match &self.0 {
            AnyState::Host(state) => AnyState::Host(state.fork(len)),
            AnyState::Cuda(state) => AnyState::Cuda(Box::new(state.fork(len))),
        })
    }
}

/// States without their type, and back.
trait Erase: Sized {
    fn erase(self) -> AnyState;
    fn of(any: AnyState) -> Option<Self>;
}

impl Erase for KvCache {
    fn erase(self) -> AnyState {
        AnyState::Host(self)
    }

    fn of(any: AnyState) -> Option<Self> {
        match any {
            AnyState::Host(state) => Some(state),
            AnyState::Cuda(_) => None,
        }
    }
}

impl Erase for CudaState {
    fn erase(self) -> AnyState {
        AnyState::Cuda(Box::new(self))
    }

    fn of(any: AnyState) -> Option<Self> {
        match any {
            AnyState::Host(_) => None,
            AnyState::Cuda(state) => Some(*state),
        }
    }
}

/// Sequences and the scratch of their steps.
pub struct Batch<'e> {
    engine: &'e Engine,
    work: Work<'e>,
}

enum Work<'e> {
    Cpu(Loaded<'e, Cpu>),
    Plain(Loaded<'e, Plain>),
    Cuda(Loaded<'e, Cuda>),
}

/// The same with its type.
struct Loaded<'e, B: Backend> {
    backend: &'e B,
    workspace: Workspace<B>,
    states: Vec<B::State>,
}

/// Calls with what a batch has, whatever its backend.
macro_rules! with {
    ($work:expr, |$loaded:ident| $call:expr) => {
        match $work {
            Work::Cpu($loaded) => $call,
            Work::Plain($loaded) => $call,
            Work::Cuda($loaded) => $call,
        }
    };
}

impl<'e> Batch<'e> {
    pub(super) fn new(engine: &'e Engine, sequences: usize) -> Result<Self> {
        let work = match &engine.backend {
            AnyBackend::Cpu(cpu) => Work::Cpu(Loaded::new(cpu, engine, sequences)?),
            AnyBackend::Plain(plain) => Work::Plain(Loaded::new(plain, engine, sequences)?),
            AnyBackend::Cuda(cuda) => Work::Cuda(Loaded::new(&**cuda, engine, sequences)?),
        };
        Ok(Self { engine, work })
    }

    /// The engine.
    pub fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Positions that a sequence holds.
    ///
    /// # Panics
    /// Here and below: when there is no such sequence.
    pub fn len(&self, sequence: usize) -> usize {
        with!(&self.work, |loaded| loaded.states[sequence].len())
    }

    /// Whether a sequence holds none.
    pub fn is_empty(&self, sequence: usize) -> bool {
        self.len(sequence) == 0
    }

    /// Forgets a sequence's positions from `len` on and tells how many are left: fewer, where a recurrent state was not
    /// marked there. It is marked now for when it comes there again.
    pub fn rewind(&mut self, sequence: usize, len: usize) -> usize {
        with!(&mut self.work, |loaded| loaded.states[sequence].rewind(len))
    }

    /// Has a sequence's recurrent state kept as it is after `len` positions, now or when it comes there: a later
    /// [`Batch::rewind`] or [`Batch::fork`] can begin there. A few are kept, the latest, as far as there are pages.
    pub fn mark(&mut self, sequence: usize, len: usize) {
        with!(&mut self.work, |loaded| loaded.states[sequence].mark(len));
    }

    /// How many positions a [`Batch::fork`] of `len` would hold.
    pub fn reach(&self, sequence: usize, len: usize) -> usize {
        with!(&self.work, |loaded| loaded.states[sequence].reach(len))
    }

    /// A sequence that begins with the first `len` positions of one of these; see [`Sequence::fork`].
    pub fn fork(&self, sequence: usize, len: usize) -> Sequence {
        Sequence(with!(&self.work, |loaded| loaded.states[sequence].fork(len).erase()))
    }

    /// Puts another sequence in the place of one and returns that.
    ///
    /// # Panics
    /// When it is one of another engine's on another device.
    pub fn replace(&mut self, sequence: usize, by: Sequence) -> Sequence {
        Sequence(with!(&mut self.work, |loaded| {
            let by = Erase::of(by.0).expect("a sequence of this engine");
            std::mem::replace(&mut loaded.states[sequence], by).erase()
        }))
    }

    /// Pages that have to be claimed before a sequence holds `len` positions.
    pub fn pages_for(&self, sequence: usize, len: usize) -> usize {
        with!(&self.work, |loaded| loaded.states[sequence].pages_for(len))
    }

    /// The only forward: computes rows of the batch's sequences.
    ///
    /// Rows of one sequence stand together at rising positions, none beyond the end of what it holds.
    ///
    /// # Errors
    /// When a token, sequence or position is out of range, an expert cannot be read, or a device fails.
    pub fn step(&mut self, rows: &[Row]) -> Result<()> {
        self.observed_step(rows, &mut Nothing)
    }

    /// [`Batch::step`] under observation.
    ///
    /// # Errors
    /// As [`Batch::step`].
    pub fn observed_step<O: Observe>(&mut self, rows: &[Row], observe: &mut O) -> Result<()> {
        rows.iter().try_for_each(|row| self.engine.admit(row))?;
        with!(&mut self.work, |loaded| loaded.step(&self.engine.model, rows, observe))
    }

    /// Logits of the last step's rows that wanted them, in their order, `(vocab_size)` each.
    ///
    /// # Panics
    /// When there were fewer, or they were not fetched.
    pub fn logits(&self, row: usize) -> &[f32] {
        with!(&self.work, |loaded| loaded.backend.logits(loaded.workspace.logits(), row))
    }

    /// The best tokens of the last step's rows that wanted them, where the backend found them: [`Batch::fetch`] brings the
    /// logits then.
    pub fn best(&self, row: usize) -> Option<Best<'_>> {
        with!(&self.work, |loaded| loaded.backend.best(loaded.workspace.best(), row))
    }

    /// Brings the last step's logits to the program, where they are not there.
    ///
    /// # Errors
    /// When a device fails.
    pub fn fetch(&mut self) -> Result<()> {
        with!(&mut self.work, |loaded| loaded.backend.fetch(loaded.workspace.logits_mut()))
    }

    /// Rows of the last step that wanted logits.
    pub fn logit_rows(&self) -> usize {
        with!(&self.work, |loaded| loaded.backend.logit_rows(loaded.workspace.logits()))
    }
}

impl<'e, B: Backend> Loaded<'e, B> {
    fn new(backend: &'e B, engine: &Engine, sequences: usize) -> Result<Self> {
        let (config, format): (_, &'static Format) = (&engine.model.config, engine.options.cache);
        let mut workspace = Workspace::new(backend, config);
        workspace.drop_tokens = engine.options.capacity == CapacityMode::Reference;
        let layers = config.memories();
        let states =
            (0..sequences).map(|_| backend.state(&layers, format, &engine.pool)).collect::<Result<_>>()?;
        Ok(Self { backend, workspace, states })
    }

    fn step<O: Observe>(&mut self, model: &Model, rows: &[Row], observe: &mut O) -> Result<()> {
        for row in rows {
            let state = self.states.get_mut(row.sequence).filter(|state| row.position <= state.len());
            let state = state.ok_or_else(|| Error::request("a row beyond the end of its sequence"))?;
            state.extend_to(row.position + 1)?;
        }
        forward(self.backend, model, &mut self.workspace, &mut self.states, rows, observe)
    }
}
