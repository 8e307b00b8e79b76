//! The two halves of a layer come in kinds; a kind is one room with its shape, weights, binding, scratch and step.
//!
//! The macro [`kinds!`] makes the enums out of the table of rooms and passes every call on, so that a further kind is a
//! file and a line. Nothing here knows any of them.

use super::backend::Backend;
use super::binder::LayerBinder;
use super::matrix::{Linear, Matrix};
use super::moe::Choosing;
use super::observe::{Observe, Site};
use super::state::Memory;
use super::step::Row;
use crate::error::Result;
use crate::experts::ExpertStore;
use crate::ops::Rope;

/// What a room supplies.
pub(in crate::model) trait Kind: Sized {
    /// Its sizes, as a file's keys say them.
    type Shape;
    /// Buffers that its step hands on, kept from layer to layer.
    type Scratch<B: Backend>;

    /// Finds its tensors.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    fn bind(shape: &Self::Shape, layer: &LayerBinder<'_>) -> Result<Self>;

    /// What a sequence keeps of a layer; nothing where positions are not mixed.
    fn memory(_: &Self::Shape) -> Memory {
        Memory::State(0)
    }

    /// Empty scratch.
    fn scratch<B: Backend>(backend: &B) -> Self::Scratch<B>;

    /// Columns of scratch that each row of a batch takes.
    fn scratch_columns(&self) -> usize;

    /// Matrices that every token passes, in the order of their use.
    fn matrices(&self) -> Vec<&Matrix>;

    /// Computes a half of a layer: `half.added` out of `half.normed`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    fn step<B: Backend, O: Observe>(
        &self,
        pass: &mut Pass<'_, B, O>,
        half: &mut Half<'_, B::Buffer>,
        scratch: &mut Self::Scratch<B>,
    ) -> Result<()>;
}

/// One batch on its way through the layers.
pub(in crate::model) struct Pass<'p, B: Backend, O> {
    pub(super) backend: &'p B,
    pub(super) rows: &'p [Row],
    pub(super) ropes: &'p [Rope],
    pub(super) experts: &'p ExpertStore,
    pub(super) drop_tokens: bool, // beyond the capacity, as the original does
    pub(super) states: &'p mut [B::State],
    pub(super) observe: &'p mut O,
}

impl<B: Backend, O: Observe> Pass<'_, B, O> {
    /// `out[.., at..] = linear(x)`, shown to the observer.
    pub(super) fn linear(&mut self, linear: &Linear, x: &mut B::Buffer, out: &mut B::Buffer, at: usize) {
        if O::ACTIVE {
            let site = Site { tensor: &linear.name, expert: None };
            self.observe.matmul_input(site, &self.backend.host(x), linear.matrix.cols);
        }
        self.backend.linear(linear, x, out, at);
    }

    /// Gives a buffer a row of `width` for every row of the batch.
    pub(super) fn resize(&self, buffer: &mut B::Buffer, width: usize) {
        self.backend.resize(buffer, self.rows.len(), width);
    }
}

/// Where a half of a layer stands in the forward.
pub(in crate::model) struct Half<'a, T> {
    pub(super) layer: usize,
    pub(super) next: Option<Choosing<'a>>, // of the layer that follows
    pub(super) angles: &'a [T],            // cosines and sines per rotation (rows, dims)
    pub(super) x: &'a T,                   // the residual stream (rows, embedding_length)
    pub(super) normed: &'a mut T,          // the half's input (rows, embedding_length)
    pub(super) added: &'a mut T,           // the half's output (rows, embedding_length)
}

/// Enums over the rooms of a table: `Shape`, the bound half `$bound`, and `Scratch`.
macro_rules! kinds {
    ($(#[$about:meta])* $bound:ident { $($(#[doc = $doc:literal])* $(#[cfg($cfg:meta)])? $kind:ident: $room:ident),+ $(,)? }) => {
        /// The sizes of a half of a layer, by kind.
        #[derive(Clone, Debug)]
        pub enum Shape {
            $($(#[doc = $doc])* $(#[cfg($cfg)])? $kind($room::Shape),)+
        }

        impl Shape {
            /// What a sequence keeps of a layer.
            #[allow(dead_code)] // of the half that never keeps anything
            pub(in crate::model) fn memory(&self) -> Memory {
                match self { $($(#[cfg($cfg)])? Self::$kind(shape) => $room::$kind::memory(shape),)+ }
            }
        }

        $(#[$about])*
        pub enum $bound {
            $($(#[doc = $doc])* $(#[cfg($cfg)])? $kind(Box<$room::$kind>),)+
        }

        /// Buffers of all kinds; those of kinds that a model has not stay empty.
        pub(in crate::model) struct Scratch<B: Backend> {
            $($(#[cfg($cfg)])? $room: <$room::$kind as Kind>::Scratch<B>,)+
        }

        impl<B: Backend> Scratch<B> {
            pub(in crate::model) fn new(backend: &B) -> Self {
                Self { $($(#[cfg($cfg)])? $room: $room::$kind::scratch(backend),)+ }
            }
        }

        impl $bound {
            pub(in crate::model) fn bind(shape: &Shape, layer: &LayerBinder<'_>) -> Result<Self> {
                Ok(match shape {
                    $($(#[cfg($cfg)])? Shape::$kind(shape) => Self::$kind(Box::new($room::$kind::bind(shape, layer)?)),)+
                })
            }

            pub(in crate::model) fn matrices(&self) -> Vec<&Matrix> {
                match self { $($(#[cfg($cfg)])? Self::$kind(kind) => kind.matrices(),)+ }
            }

            /// Columns of scratch per row that layers of several kinds take together: each kind keeps its widest.
            pub(in crate::model) fn scratch_columns<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> usize {
                let mut columns = 0;
                $($(#[cfg($cfg)])? {
                    let own = all.clone().filter_map(|kind| match kind {
                        Self::$kind(kind) => Some(kind.scratch_columns()),
                        _ => None,
                    });
                    columns += own.max().unwrap_or(0);
                })+
                columns
            }

            pub(in crate::model) fn step<B: Backend, O: Observe>(
                &self,
                pass: &mut Pass<'_, B, O>,
                half: &mut Half<'_, B::Buffer>,
                scratch: &mut Scratch<B>,
            ) -> Result<()> {
                match self { $($(#[cfg($cfg)])? Self::$kind(kind) => kind.step(pass, half, &mut scratch.$room),)+ }
            }
        }
    };
}
pub(super) use kinds;
