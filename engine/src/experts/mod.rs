//! Where the weights of routed experts are.
//!
//! Today every expert is a range of the mapped file: the page cache keeps what the router picks, and the layer's
//! chosen experts are announced to the system before they are computed.

use crate::gguf::Bytes;
use crate::kernels::{ExpertMatrices, MatrixRef};
use crate::quant::Format;

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
}

impl ExpertStore {
    /// A store over bound layers; `None` for dense ones.
    pub fn new(layers: Vec<Option<ExpertLayer>>) -> Self {
        Self { layers }
    }

    /// The experts of a layer.
    ///
    /// # Panics
    /// When the layer is dense.
    pub fn layer(&self, layer: usize) -> &ExpertLayer {
        self.layers[layer].as_ref().expect("an expert layer")
    }

    /// Announces that these experts of a layer are about to be read.
    pub fn announce(&self, layer: usize, experts: &[u32]) {
        for stack in self.layer(layer).stacks() {
            for &expert in experts {
                stack.experts[expert as usize].advise_will_need();
            }
        }
    }

    /// Bytes of all experts of a layer; 0 for dense ones.
    pub fn layer_bytes(&self, layer: usize) -> usize {
        let stacks = self.layers[layer].iter().flat_map(ExpertLayer::stacks);
        stacks.flat_map(|stack| &stack.experts).map(|bytes| bytes.len()).sum()
    }
}
