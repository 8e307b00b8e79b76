//! The tile unit: AMX's eight registers as sums of inputs times weights, and its plain twin.
//!
//! Tile registers keep their sums from one piece of assembly to the next, which the language does not promise. What is leaned
//! on: the compiler makes no instruction for tiles by itself, as no function is compiled for AMX; between `begin` and `end` a
//! thread runs code of this crate only; each thread has registers of its own, which the system saves when it takes the thread
//! away or hands it a signal (handlers use no tiles). A panic in between leaves the registers configured, which costs time
//! but changes nothing: `begin` configures them anew.

use super::super::matrix::PANEL;
use super::bf16::{LINES, Line};
use std::arch::asm;

/// Sums of sixteen rows.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct RowSums(pub(super) [f32; PANEL]);

/// What multiplies tiles. It holds the sums of one or two tiles of inputs with two of weights (`SIDE`).
pub(super) trait Unit: Sized {
    /// Gets it ready.
    ///
    /// # Safety
    /// Here and below: there must be such a unit, pointers lead to whole tiles, and `TILES` is 1 or 2.
    unsafe fn begin() -> Self;

    /// Takes up the sums `(TILES, SIDE, LINES)`.
    unsafe fn load<const TILES: usize>(&mut self, sums: *const RowSums);

    /// Adds the products of inputs `(TILES, LINES)` with weights `(SIDE, LINES)`.
    unsafe fn step<const TILES: usize>(&mut self, inputs: *const Line, weights: *const Line);

    /// Puts the sums back.
    unsafe fn store<const TILES: usize>(&mut self, sums: *mut RowSums);

    /// Gives it back.
    unsafe fn end(self);
}

/// What LDTILECFG reads (Intel's Software Developer's Manual, volume 1, section 18): lines of each register and their bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

/// The tile unit of the processor.
pub(super) struct Amx;

impl Unit for Amx {
    #[inline(always)]
    unsafe fn begin() -> Self {
        let (mut line_bytes, mut lines) = ([0; 16], [0; 16]);
        line_bytes[..8].fill(size_of::<Line>() as u16);
        lines[..8].fill(LINES as u8);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines };
        // SAFETY: the caller has the unit; the instruction reads these 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(readonly, nostack, preserves_flags)) }
        Self
    }

    #[inline(always)]
    unsafe fn load<const TILES: usize>(&mut self, sums: *const RowSums) {
        // SAFETY: the caller has the unit and whole tiles at the address; see the file for what the registers hold in between.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 1024]",
                sums = in(reg) sums, line = in(reg) size_of::<Line>(),
                options(readonly, nostack, preserves_flags)
            );
            if TILES > 1 {
                asm!(
                    "tileloadd tmm2, [{sums} + {line} + 2048]",
                    "tileloadd tmm3, [{sums} + {line} + 3072]",
                    sums = in(reg) sums, line = in(reg) size_of::<Line>(),
                    options(readonly, nostack, preserves_flags)
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn step<const TILES: usize>(&mut self, inputs: *const Line, weights: *const Line) {
        // SAFETY: the caller has the unit and whole tiles at both addresses; see the file for the registers.
        unsafe {
            if TILES > 1 {
                asm!(
                    "tileloadd tmm4, [{inputs} + {line}]",
                    "tileloadd tmm5, [{inputs} + {line} + 1024]",
                    "tileloadd tmm6, [{weights} + {line}]",
                    "tileloadd tmm7, [{weights} + {line} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    inputs = in(reg) inputs, weights = in(reg) weights, line = in(reg) size_of::<Line>(),
                    options(readonly, nostack, preserves_flags)
                );
            } else {
                asm!(
                    "tileloadd tmm4, [{inputs} + {line}]",
                    "tileloadd tmm6, [{weights} + {line}]",
                    "tileloadd tmm7, [{weights} + {line} + 1024]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    inputs = in(reg) inputs, weights = in(reg) weights, line = in(reg) size_of::<Line>(),
                    options(readonly, nostack, preserves_flags)
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn store<const TILES: usize>(&mut self, sums: *mut RowSums) {
        // SAFETY: the caller has the unit and room for whole tiles; see the file for the registers.
        unsafe {
            asm!(
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                sums = in(reg) sums, line = in(reg) size_of::<Line>(),
                options(nostack, preserves_flags)
            );
            if TILES > 1 {
                asm!(
                    "tilestored [{sums} + {line} + 2048], tmm2",
                    "tilestored [{sums} + {line} + 3072], tmm3",
                    sums = in(reg) sums, line = in(reg) size_of::<Line>(),
                    options(nostack, preserves_flags)
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn end(self) {
        // SAFETY: the caller has the unit, and needs what the registers hold no more.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[cfg(test)]
pub(super) use plain::Plain;

#[cfg(test)]
mod plain {
    use super::super::bf16::SIDE;
    use super::*;

    /// The tile unit in plain Rust: its sums, `(TILES, SIDE, LINES)`.
    pub(in super::super) struct Plain([RowSums; 2 * SIDE * LINES]);

    impl Unit for Plain {
        unsafe fn begin() -> Self {
            Self([RowSums::default(); 2 * SIDE * LINES])
        }

        unsafe fn load<const TILES: usize>(&mut self, sums: *const RowSums) {
            let count = TILES * SIDE * LINES;
            // SAFETY: the caller has so many lines of sums.
            self.0[..count].copy_from_slice(unsafe { std::slice::from_raw_parts(sums, count) });
        }

        unsafe fn step<const TILES: usize>(&mut self, inputs: *const Line, weights: *const Line) {
            let float = |half: u16| f32::from_bits(u32::from(half) << 16);
            // SAFETY: the caller has so many lines of inputs, and `SIDE` tiles of weights.
            let (inputs, weights) = unsafe {
                (
                    std::slice::from_raw_parts(inputs, TILES * LINES),
                    std::slice::from_raw_parts(weights, SIDE * LINES),
                )
            };
            for (i, sums) in self.0[..TILES * SIDE * LINES].iter_mut().enumerate() {
                let (tile, side, n) = (i / (SIDE * LINES), i / LINES % SIDE, i % LINES);
                let input = inputs[tile * LINES + n].0.as_chunks::<2>().0;
                for (row, sum) in sums.0.iter_mut().enumerate() {
                    for (line, input) in weights[side * LINES..][..LINES].iter().zip(input) {
                        let weights = &line.0.as_chunks::<2>().0[row];
                        *sum += float(input[0]) * float(weights[0]) + float(input[1]) * float(weights[1]);
                    }
                }
            }
        }

        unsafe fn store<const TILES: usize>(&mut self, sums: *mut RowSums) {
            let count = TILES * SIDE * LINES;
            // SAFETY: the caller has room for so many lines of sums.
            unsafe { std::slice::from_raw_parts_mut(sums, count) }.copy_from_slice(&self.0[..count]);
        }

        unsafe fn end(self) {}
    }
}
