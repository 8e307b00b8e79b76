//! How fast a card multiplies with matrices of every format: a table for `tests/gpu.sh bench`. Nothing is asserted.

use super::asked_formats;
use moewe_engine::cuda::{Device, Kernels, MatrixAt, Rows};
use moewe_engine::eval::Weights;
use moewe_engine::quant::Format;
use moewe_engine::simd::Isa;
use std::time::Instant;

/// Outputs and inputs: of attention, of an expert, of a large expert, of a vocabulary.
const SHAPES: [(usize, usize); 4] = [(2048, 2048), (768, 2048), (14336, 4096), (50304, 2048)];
/// Rows that are multiplied at once, and how often all matrices are.
const INPUTS: [(usize, usize); 4] = [(1, 10), (8, 4), (64, 2), (512, 1)];
/// Rows of a panel.
const PANEL: usize = 16;

/// Copies of a matrix, so many that no cache holds them: `MOEWE_SPEED_MB` megabytes, or 512. Fewer make the matrix smaller.
#[test]
#[ignore = "measures a card; is run by tests/gpu.sh"]
fn speeds() {
    let megabytes = std::env::var("MOEWE_SPEED_MB").map_or(512, |text| text.parse().unwrap());
    println!("| format | matrix | rows | us | weights GB/s | products G/s |\n|---|---|--:|--:|--:|--:|");
    for format in asked_formats() {
        let kernels = Kernels::load(Device::open(0).unwrap(), &[format]).unwrap();
        for (rows, cols) in SHAPES {
            let rows = rows.min((megabytes << 20) / format.row_bytes(cols) / PANEL * PANEL).max(PANEL);
            let panel = panel(format, cols);
            let matrix = panel.bytes().repeat(rows / PANEL);
            let copies = ((megabytes << 20) / matrix.len()).max(1);
            let weights = kernels.device().upload(&matrix.repeat(copies)).unwrap();
            let is_panels = panel.is_panels();
            let at = |copy| {
                let bytes = weights.address() + (copy * matrix.len()) as u64;
                MatrixAt { format, rows, cols, is_panels, bytes }
            };
            let all: Vec<MatrixAt> = (0..copies).map(at).collect();
            for (inputs, rounds) in INPUTS {
                let seconds = seconds_of_each(&kernels, &all, inputs, rounds);
                let bytes_per_second = matrix.len() as f64 / seconds;
                let products_per_second = (rows * cols * inputs) as f64 / seconds;
                println!(
                    "| {format} | {rows} x {cols} | {inputs} | {:.2} | {:.1} | {:.0} |",
                    seconds * 1e6,
                    bytes_per_second / 1e9,
                    products_per_second / 1e9
                );
            }
        }
    }
}

/// The best of three times `rounds` launches of a graph with all matrices, a product each.
fn seconds_of_each(kernels: &Kernels, all: &[MatrixAt], inputs: usize, rounds: usize) -> f64 {
    let device = kernels.device();
    let (mut x, mut out) = (Rows::new(0), Rows::new(0));
    kernels.resize(&mut x, inputs, all[0].cols);
    kernels.resize(&mut out, inputs, all[0].rows);
    let values: Vec<u8> =
        (0..inputs * all[0].cols).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes()).collect();
    device.copy_now(x.place(), &values).unwrap();
    // The first makes codes of the inputs; these stay.
    kernels.multiply(all[0], 0, &mut x, &mut out, 0);
    device.wait().unwrap();
    device.capture().unwrap();
    all.iter().for_each(|&matrix| kernels.multiply(matrix, 0, &mut x, &mut out, 0));
    let graph = device.captured().unwrap();
    kernels.take_failure().unwrap();
    let once = |_| {
        let start = Instant::now();
        (0..rounds).for_each(|_| device.launch_graph(&graph).unwrap());
        device.wait().unwrap();
        start.elapsed().as_secs_f64() / (rounds * all.len()) as f64
    };
    (0..3).map(once).fold(f64::INFINITY, f64::min)
}

/// The panel that a matrix repeats, as it comes to cards.
fn panel(format: &'static Format, cols: usize) -> Weights {
    let weights: Vec<f32> = (0..PANEL * cols).map(|i| (i as f32 * 0.73).sin()).collect();
    let mut bytes = vec![0u8; PANEL * format.row_bytes(cols)];
    (format.quantize.unwrap())(&weights, None, &mut bytes);
    Weights::of_file(format, cols, bytes).packed(Isa::detect())
}
