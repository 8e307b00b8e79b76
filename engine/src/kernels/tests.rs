//! Every format on every instruction set of this machine against dequantized weights in f64.

use super::*;
use crate::quant::Format;
use crate::quant::{FORMATS, Kind};
use crate::simd::Isa;
use crate::threads::Team;

/// A small generator: seeds must give the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Random blocks whose weights are all finite and of moderate size.
fn random_matrix(format: &Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let block_count = rows * cols / format.block_len;
    let mut bytes = Vec::with_capacity(block_count * format.block_bytes);
    let mut weights = vec![0f32; format.block_len];
    while bytes.len() < block_count * format.block_bytes {
        let block: Vec<u8> = (0..format.block_bytes).map(|_| random.next() as u8).collect();
        (format.dequantize)(&block, &mut weights);
        if weights.iter().all(|weight| weight.abs() < 1e4) {
            bytes.extend(block);
        }
    }
    bytes
}

pub(super) struct Case {
    pub(super) format: &'static Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) values: Vec<f32>,
    pub(super) inputs: usize,
    pub(super) are_apart: bool,
}

impl Case {
    pub(super) fn new(format: &'static Format, rows: usize, cols: usize, inputs: usize) -> Self {
        let mut random = Random(format.id as u64 * 1000 + (rows * inputs) as u64);
        let bytes = random_matrix(format, rows, cols, &mut random);
        let values = (0..inputs * cols).map(|i| random.unit() * (1.0 + (i % 7) as f32)).collect();
        Self { format, rows, cols, bytes, values, inputs, are_apart: false }
    }

    pub(super) fn matrix(&self) -> MatrixRef<'_> {
        let Self { format, rows, cols, .. } = *self;
        MatrixRef { format, rows, cols, layout: Layout::Rows, bytes: &self.bytes }
    }

    /// The bytes as an instruction set's layout has them.
    pub(super) fn packed(&self, isa: Isa) -> Vec<u8> {
        let mut packed = vec![0; self.bytes.len()];
        Layout::of(isa, self.format).pack(self.matrix(), &mut packed);
        packed
    }

    /// Codes and extras of all inputs.
    pub(super) fn quantized(&self, isa: Isa) -> (Vec<i8>, Vec<u32>) {
        let kernel = select(self.format, isa);
        let extras = Quantized::extras_len(self.cols);
        let (mut codes, mut all) = (vec![0; self.values.len()], vec![0; extras * self.inputs]);
        for (i, row) in self.values.chunks(self.cols).enumerate() {
            let codes = &mut codes[i * self.cols..(i + 1) * self.cols];
            kernel.quantize(row, &mut Quantized::new(codes, &mut all[i * extras..(i + 1) * extras]));
        }
        (codes, all)
    }

    /// The inputs with what [`Case::quantized`] made of them.
    pub(super) fn inputs<'a>(&'a self, codes: &'a [i8], extras: &'a [u32]) -> Inputs<'a> {
        let inputs = Inputs::floats(&self.values, self.cols);
        let inputs = if self.are_apart { inputs.apart() } else { inputs };
        match select(self.format, Isa::Portable).inputs() {
            Some(grain) => inputs.with_codes(grain, codes, extras),
            None => inputs,
        }
    }

    pub(super) fn compute(&self, isa: Isa) -> Vec<f32> {
        self.compute_with(isa, self.matrix())
    }

    /// The same out of the layout that experts have.
    pub(super) fn compute_packed(&self, isa: Isa) -> Vec<f32> {
        let bytes = &self.packed(isa);
        self.compute_with(isa, MatrixRef { layout: Layout::of(isa, self.format), bytes, ..self.matrix() })
    }

    fn compute_with(&self, isa: Isa, matrix: MatrixRef<'_>) -> Vec<f32> {
        let kernel = select(self.format, isa);
        let (codes, extras) = self.quantized(isa);
        let inputs = self.inputs(&codes, &extras);
        let picks: Vec<Pick> = (0..self.inputs as u32).map(|i| Pick { input: i, output: i }).collect();
        let mut out = vec![f32::NAN; self.rows * self.inputs];
        let output = Output::new(&mut out, self.rows, 0);
        matmul(&Team::new(2), kernel, Job::new(matrix, inputs, Picks::new(&picks), output));
        out
    }

    /// What the kernels approximate: exact sums over the rounded activations, and a bound on their magnitude.
    pub(super) fn expected(&self) -> Vec<(f64, f64)> {
        let mut values: Vec<f64> = self.values.iter().map(|&x| x as f64).collect();
        if self.format.kind == Kind::Blocks {
            let (codes, extras) = self.quantized(Isa::Portable);
            let scales =
                extras.chunks(Quantized::extras_len(self.cols)).flat_map(|row| &row[..self.cols / 32]);
            let scales = scales.map(|bits| f32::from_bits(*bits));
            for ((values, codes), scale) in values.chunks_mut(32).zip(codes.chunks(32)).zip(scales) {
                for (value, &code) in values.iter_mut().zip(codes) {
                    let rounded = code as f64 * scale as f64;
                    assert!((*value - rounded).abs() <= 0.501 * scale as f64);
                    *value = rounded;
                }
            }
        }
        let mut row = vec![0f32; self.cols];
        let mut out = vec![(0.0, 0.0); self.rows * self.inputs];
        for r in 0..self.rows {
            self.matrix().row_to_f32(r, &mut row);
            for (i, input) in values.chunks(self.cols).enumerate() {
                let products = row.iter().zip(input).map(|(w, x)| *w as f64 * x);
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                out[i * self.rows + r] = (sum, size);
            }
        }
        out
    }
}

#[test]
fn every_format_and_isa_computes_the_same_products() {
    let mut failures = vec![];
    for format in FORMATS {
        for (rows, inputs) in [(16, 1), (35, 3), (33, 4), (40, 13), (5, 9)] {
            for cols in [256, 1280, 96, 544] {
                if cols % format.block_len != 0 || (format.kind == Kind::Blocks && cols % 32 != 0) {
                    continue;
                }
                let case = Case::new(format, rows, cols, inputs);
                let expected = case.expected();
                for (isa, packed) in Isa::available().flat_map(|isa| [(isa, false), (isa, true)]) {
                    let found = if packed { case.compute_packed(isa) } else { case.compute(isa) };
                    let worst = found.iter().zip(&expected).fold(0f64, |worst, (found, (sum, size))| {
                        let error = (*found as f64 - sum).abs() / size;
                        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
                    });
                    // Mins are subtracted from far larger sums: the bound is relative to the terms, not the sum.
                    if worst > 3e-5 {
                        failures.push(format!(
                            "{format} {isa} {rows}x{cols}, {inputs} inputs, packed {packed}: {worst:e}"
                        ));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn activations_quantize_alike_on_every_isa() {
    for format in ["Q8_0", "Q2_K"] {
        let case = Case::new(Format::by_name(format).unwrap(), 16, 1280, 5);
        let expected = case.quantized(Isa::Portable);
        for isa in Isa::available() {
            let found = case.quantized(isa);
            assert_eq!(found.0, expected.0, "{isa}");
            assert_eq!(found.1, expected.1, "{isa}");
        }
    }
}

#[test]
fn coarse_inputs_share_the_scale_of_their_largest() {
    let case = Case::new(Format::by_name("Q2_K").unwrap(), 16, 512, 1);
    let (codes, extras) = case.quantized(Isa::Portable);
    let row = case.inputs(&codes, &extras).quantized::<crate::quant::Q2K>(0);
    for (block, values) in case.values.chunks(256).enumerate() {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        assert!(row.scales[block * 8..][..8].iter().all(|scale| *scale == largest / 127.0));
    }
    for (pair, codes) in row.pairs.iter().zip(codes.chunks(32)) {
        let sum = |codes: &[i8]| codes.iter().map(|code| *code as i16).sum::<i16>() as u16 as u32;
        assert_eq!(*pair as u32, sum(&codes[..16]) | sum(&codes[16..]) << 16);
    }
}

/// What an input becomes with up to 22 others is what it becomes alone: answers do not depend on who else is served.
#[test]
fn an_input_has_the_bits_that_it_has_alone() {
    let mut failures = vec![];
    for format in FORMATS {
        let cols = if format.block_len == 256 { 512 } else { 288 };
        let whole = Case { are_apart: true, ..Case::new(format, 33, cols, 23) };
        let (inputs, rows) = (whole.inputs, whole.rows);
        for (isa, packed) in Isa::available().flat_map(|isa| [(isa, false), (isa, true)]) {
            let compute = |case: &Case| if packed { case.compute_packed(isa) } else { case.compute(isa) };
            let case = |first: usize, inputs: usize| Case {
                bytes: whole.bytes.clone(),
                values: whole.values[first * cols..(first + inputs) * cols].to_vec(),
                inputs,
                ..whole
            };
            let alone: Vec<f32> = (0..inputs).flat_map(|input| compute(&case(input, 1))).collect();
            for together in 2..=inputs {
                if compute(&case(0, together)) != alone[..together * rows] {
                    failures.push(format!("{format} {isa}, {together} inputs, packed {packed}"));
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
