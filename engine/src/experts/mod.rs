//! Where the weights of routed experts are.
//!
//! Today every expert is a range of the mapped file: the page cache keeps what the router picks, and the layer's
//! chosen experts are announced to the system before they are computed.

use crate::gguf::Bytes;
use crate::kernels::{ExpertMatrices, MatrixRef};
use crate::quant::Format;
use std::sync::atomic::{AtomicBool, Ordering};

/// One matrix of every expert of a layer.
pub struct Stack {
    /// How all of them are stored.
    pub format: &'static Format,
    /// Outputs of one expert's matrix.
    pub rows: usize,
    /// Inputs of one expert's matrix.
    pub cols: usize,
    /// One per expert.
    pub experts: Vec<Bytes>,
    /// `(expert_count, rows)`.
    pub bias: Option<Vec<f32>>,
}

impl ExpertMatrices for Stack {
    fn matrix(&self, expert: u32) -> MatrixRef<'_> {
        let bytes = &self.experts[expert as usize];
        MatrixRef { format: self.format, rows: self.rows, cols: self.cols, bytes }
    }

    fn bias(&self, expert: u32) -> Option<&[f32]> {
        self.bias.as_ref().map(|bias| &bias[expert as usize * self.rows..][..self.rows])
    }
}

/// All experts of a layer.
pub struct ExpertLayer {
    /// Through the activation; some models have none.
    pub gate: Option<Stack>,
    /// To the hidden width.
    pub up: Stack,
    /// Back.
    pub down: Stack,
}

impl ExpertLayer {
    fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.gate.iter().chain([&self.up, &self.down])
    }
}

/// The experts of all layers.
pub struct ExpertStore {
    layers: Vec<Option<ExpertLayer>>,
    /// Per layer and expert: whether it has been announced. Asking again for pages that are there costs a walk
    /// over all of them, a tenth of a token's time.
    announced: Vec<Vec<AtomicBool>>,
}

impl ExpertStore {
    /// A store over bound layers; `None` for dense ones.
    pub fn new(layers: Vec<Option<ExpertLayer>>) -> Self {
        let flags = |layer: &Option<ExpertLayer>| {
            let count = layer.as_ref().map_or(0, |layer| layer.up.experts.len());
            (0..count).map(|_| AtomicBool::new(false)).collect()
        };
        Self { announced: layers.iter().map(flags).collect(), layers }
    }

    /// The experts of a layer.
    ///
    /// # Panics
    /// When the layer is dense.
    pub fn layer(&self, layer: usize) -> &ExpertLayer {
        self.layers[layer].as_ref().expect("an expert layer")
    }

    /// Announces that these experts of a layer are about to be read, each the first time only.
    pub fn announce(&self, layer: usize, experts: &[u32]) {
        for &expert in experts {
            if !self.announced[layer][expert as usize].swap(true, Ordering::Relaxed) {
                self.layer(layer)
                    .stacks()
                    .for_each(|stack| stack.experts[expert as usize].advise_will_need());
            }
        }
    }

    /// Bytes of all experts of a layer; 0 for dense ones.
    pub fn layer_bytes(&self, layer: usize) -> usize {
        let stacks = self.layers[layer].iter().flat_map(ExpertLayer::stacks);
        stacks.flat_map(|stack| &stack.experts).map(|bytes| bytes.len()).sum()
    }
}
