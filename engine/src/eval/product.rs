//! A product with one matrix on the CPU: for measurements, and for comparisons with other devices.
//!
//! Owns a matrix as it lies in a file or as an instruction set's kernels want it, and inputs as they meet it. How products
//! are computed is the kernels' matter.

use crate::kernels::{
    Inputs, Job, Kernel, Layout, MatrixRef, Output, Pick, Picks, Quantized, matmul, select,
};
use crate::quant::Format;
use crate::simd::Isa;
use crate::threads::Team;

/// A matrix of one format.
pub struct Weights {
    format: &'static Format,
    cols: usize,
    layout: Layout,
    bytes: Vec<u8>,
}

impl Weights {
    /// A matrix as files have it, with whole rows of `cols` weights.
    pub fn of_file(format: &'static Format, cols: usize, bytes: Vec<u8>) -> Self {
        Self { format, cols, layout: Layout::Rows, bytes }
    }

    /// The same as the kernels of an instruction set want it.
    pub fn packed(&self, isa: Isa) -> Self {
        let layout = Layout::of(isa, self.format);
        let mut bytes = vec![0; self.bytes.len()];
        layout.pack(self.matrix(), &mut bytes);
        Self { layout, bytes, ..*self }
    }

    /// Whether sixteen rows lie side by side.
    pub fn is_panels(&self) -> bool {
        self.layout == Layout::Panels
    }

    /// The blocks as they lie.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The matrix times rows of inputs, one row of outputs after the other, by one thread of an instruction set that this
    /// machine has.
    pub fn times(&self, isa: Isa, inputs: &[f32]) -> Vec<f32> {
        let (kernel, matrix) = (select(self.format, isa), self.matrix());
        let inputs = Rows::new(kernel, inputs.to_vec(), self.cols);
        let mut out = vec![0.0; inputs.count() * matrix.rows];
        inputs.meet(&Team::new(1), kernel, matrix, &mut out);
        out
    }

    fn matrix(&self) -> MatrixRef<'_> {
        let Self { format, cols, layout, .. } = *self;
        MatrixRef {
            format,
            rows: self.bytes.len() / format.row_bytes(cols),
            cols,
            layout,
            bytes: &self.bytes,
        }
    }
}

/// Rows of inputs, quantized as their kernel wants them.
pub(super) struct Rows {
    width: usize,
    values: Vec<f32>,
    codes: Vec<i8>,
    extras: Vec<u32>,
    picks: Vec<Pick>,
}

impl Rows {
    pub(super) fn new(kernel: Kernel, values: Vec<f32>, width: usize) -> Self {
        let (count, extras_len) = (values.len() / width, Quantized::extras_len(width));
        let (mut codes, mut extras) = (vec![0; values.len()], vec![0; count * extras_len]);
        let quantized = codes.chunks_exact_mut(width).zip(extras.chunks_exact_mut(extras_len));
        for (row, (codes, extras)) in values.chunks_exact(width).zip(quantized) {
            kernel.quantize(row, &mut Quantized::new(codes, extras));
        }
        let picks = (0..count as u32).map(|i| Pick { input: i, output: i }).collect();
        Self { width, values, codes, extras, picks }
    }

    fn count(&self) -> usize {
        self.picks.len()
    }

    /// The matrix times all of them.
    pub(super) fn meet(&self, team: &Team, kernel: Kernel, matrix: MatrixRef<'_>, out: &mut [f32]) {
        let mut inputs = Inputs::floats(&self.values, self.width);
        if let Some(grain) = kernel.inputs() {
            inputs = inputs.with_codes(grain, &self.codes, &self.extras);
        }
        let output = Output::new(out, matrix.rows, 0);
        matmul(team, kernel, Job::new(matrix, inputs, Picks::new(&self.picks), output));
    }
}
