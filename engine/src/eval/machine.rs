//! What the machine allows and what the kernels make of it: the rate at which memory is read, and the time that a
//! matrix of each format takes. The reader divides one by the other.

use super::product::Rows;
use crate::error::{Error, Result};
use crate::kernels::{Kernel, Layout, MatrixRef, prefetch, select};
use crate::os::pages::Pages;
use crate::quant::Format;
use crate::simd::Isa;
use crate::threads::Team;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes of what is read: larger than the caches of the machines that this runs on.
const SIZE: usize = 256 << 20;

/// How far ahead it is asked for: some processors are faster if nothing is, and all that counts is the faster way.
const PREFETCH: [usize; 2] = [4096, 0];

/// Columns of a measured matrix.
const COLS: usize = 2048;

/// Rows of weights that are quantized; the matrix repeats them, which no kernel can make use of.
const PATTERN_ROWS: usize = 64;

/// How often something is measured; the best counts, for all else is what other programs took.
const REPETITIONS: usize = 5;

/// How often something is measured in turns with reading memory.
const TURNS: usize = 15;

/// Memory that no cache holds, and the threads that read it.
pub struct ReadBench {
    team: Team,
    pages: Pages,
}

impl ReadBench {
    /// # Errors
    /// When there is no room for it.
    pub fn new(threads: usize) -> Result<Self> {
        let mut pages = Pages::new(SIZE)?;
        // Memory that nobody wrote is one page of zeros.
        pages.fill(1);
        Ok(Self { team: Team::new(threads), pages })
    }

    /// Bytes per second that the threads read together, the best of some passes.
    pub fn bytes_per_second(&self) -> f64 {
        SIZE as f64 / fastest(|| self.pass()).as_secs_f64()
    }

    /// The same of as many passes as a time has room for, at least one beside a first that does not count.
    pub fn bytes_per_second_within(&self, limit: Duration) -> f64 {
        SIZE as f64 / fastest_within(limit, || self.pass()).as_secs_f64()
    }

    /// The time of a pass.
    fn pass(&self) -> Duration {
        let words = bytemuck::cast_slice(&self.pages);
        let [ahead, none] = PREFETCH.map(|ahead| timed(|| read(&self.team, words, ahead)));
        ahead.min(none)
    }
}

/// Passes over words, which are asked for so many bytes ahead.
fn read(team: &Team, words: &[u64], ahead: usize) {
    team.run_chunks(words.len(), 1 << 16, |start, end| {
        let mut sums = [0u64; 16];
        for words in words[start..end].as_chunks::<16>().0 {
            let ahead = words.as_ptr().cast::<u8>().wrapping_add(ahead);
            prefetch(ahead);
            prefetch(ahead.wrapping_add(64));
            sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
        }
        black_box(sums);
    });
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The shortest of some times, after one that does not count.
fn fastest(mut time: impl FnMut() -> Duration) -> Duration {
    (0..=REPETITIONS).map(|_| time()).skip(1).min().unwrap_or_default()
}

/// The same of so many as a time has room for, at least one.
fn fastest_within(limit: Duration, mut time: impl FnMut() -> Duration) -> Duration {
    let start = Instant::now();
    time();
    let mut best = time();
    while start.elapsed() + best < limit {
        best = best.min(time());
    }
    best
}

/// How weights stream past one input.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Bytes of weights per second, at best.
    pub bytes_per_second: f64,
    /// Of the rate at which the same threads read memory. A machine that others share has seconds that are faster than
    /// others, so both are measured in turns, and the median of their ratios counts.
    pub share_of_read_rate: f64,
}

/// A matrix too large for the caches, in the layout of an instruction set.
pub struct KernelBench<'a> {
    reader: &'a ReadBench,
    kernel: Kernel,
    format: &'static Format,
    layout: Layout,
    rows: usize,
    bytes: Pages,
}

impl<'a> KernelBench<'a> {
    /// A matrix of a block format, 2048 columns wide, for the reader's threads.
    ///
    /// # Errors
    /// When the format cannot be written.
    pub fn new(format: &'static Format, isa: Isa, reader: &'a ReadBench) -> Result<Self> {
        let quantize =
            format.quantize.ok_or_else(|| Error::request(format!("{format} cannot be written")))?;
        let row_bytes = format.row_bytes(COLS);
        let weights: Vec<f32> =
            (0..PATTERN_ROWS * COLS).map(|i| ((i * 7919) % 997) as f32 / 498.0 - 1.0).collect();
        let mut pattern = vec![0; PATTERN_ROWS * row_bytes];
        for (row, bytes) in weights.chunks_exact(COLS).zip(pattern.chunks_exact_mut(row_bytes)) {
            quantize(row, None, bytes);
        }
        let layout = Layout::of(isa, format);
        let rows =
            MatrixRef { format, rows: PATTERN_ROWS, cols: COLS, layout: Layout::Rows, bytes: &pattern };
        let mut packed = vec![0; pattern.len()];
        layout.pack(rows, &mut packed);
        let copies = (SIZE / packed.len()).max(1);
        // Where packed weights lie, too: the kernels are faster when lines of the cache hold whole words of rows.
        let mut bytes = Pages::new(copies * packed.len())?;
        bytes.chunks_exact_mut(packed.len()).for_each(|copy| copy.copy_from_slice(&packed));
        let kernel = select(format, isa);
        Ok(Self { reader, kernel, format, layout, rows: PATTERN_ROWS * copies, bytes })
    }

    /// One input in turns with reading alone.
    pub fn stream(&self) -> Stream {
        let size = self.bytes.len() as f64;
        let mut fastest = Duration::MAX;
        let mut shares = self.with_product(self.rows, 1, |product| {
            let turn = |_| {
                let (read, time) = (self.reader.pass().as_secs_f64(), timed(&mut *product));
                fastest = fastest.min(time);
                size / time.as_secs_f64() * read / SIZE as f64
            };
            (0..=TURNS).map(turn).skip(1).collect::<Vec<f64>>()
        });
        shares.sort_by(f64::total_cmp);
        let bytes_per_second = size / fastest.as_secs_f64();
        Stream { bytes_per_second, share_of_read_rate: shares[TURNS / 2] }
    }

    /// Bytes of weights per second past one input, of as many passes as a time has room for. Where a pass takes longer, the
    /// threads are what limits it, and a part of the matrix tells as much.
    pub fn bytes_per_second_within(&self, limit: Duration) -> f64 {
        let part = (self.rows / 64).next_multiple_of(PATTERN_ROWS).min(self.rows);
        let seconds = |rows, limit| {
            let time = self.with_product(rows, 1, |product| fastest_within(limit, || timed(&mut *product)));
            time.as_secs_f64().max(1e-9)
        };
        let rate = |rows: usize, seconds: f64| (rows * self.format.row_bytes(COLS)) as f64 / seconds;
        let of_part = seconds(part, Duration::ZERO);
        // One pass does not count, one does.
        if 2.0 * of_part * self.rows as f64 / part as f64 > limit.as_secs_f64() {
            return rate(part, of_part);
        }
        rate(self.rows, seconds(self.rows, limit))
    }

    /// Multiplications and additions per second with so many inputs, of a part of the matrix that passes the caches.
    pub fn products_per_second(&self, inputs: usize) -> f64 {
        let rows = (self.rows / 8).next_multiple_of(PATTERN_ROWS);
        let time = self.with_product(rows, inputs, |product| fastest(|| timed(&mut *product)));
        (rows * COLS * inputs) as f64 / time.as_secs_f64()
    }

    /// Hands on the product of the first rows with `inputs`.
    fn with_product<R>(&self, rows: usize, inputs: usize, measure: impl FnOnce(&mut dyn FnMut()) -> R) -> R {
        let values = (0..inputs * COLS).map(|i| (i % 17) as f32 - 8.0).collect();
        let inputs_of_kernel = Rows::new(self.kernel, values, COLS);
        let mut out = vec![0.0; inputs * rows];
        let bytes = &self.bytes[..rows * self.format.row_bytes(COLS)];
        let matrix = MatrixRef { format: self.format, rows, cols: COLS, layout: self.layout, bytes };
        measure(&mut || inputs_of_kernel.meet(&self.reader.team, self.kernel, matrix, &mut out))
    }
}
