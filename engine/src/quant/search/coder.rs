//! Choosing codes for scales that stand: the nearest code of each weight, or the nearest point of each eight, for
//! sixteen rows at a time.

use super::lattice::{Lattice, Octet, minus_signs};
use super::nearest::{Query, Tables};
use crate::simd::{LANES, Lanes};

/// The codes of a block, by weights or by eights, as the format has them.
pub(crate) struct BlockCodes {
    pub(crate) scalars: [i8; 256],
    pub(crate) octets: [Octet; 32],
}

impl BlockCodes {
    /// Those of a format whose blocks are shorter.
    #[inline(always)]
    pub(crate) fn first<const N: usize>(&self) -> &[i8; N] {
        self.scalars.first_chunk().expect("at most 256 codes")
    }
}

/// How a format's codes are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coder {
    /// One by one.
    Scalars(Scalars),
    /// In eights.
    Octets(&'static Lattice),
}

/// The codes of single weights, in rising order: all whole numbers between two, or a few.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalars {
    /// From the first to the second.
    Whole(f32, f32),
    /// Those listed.
    Listed(&'static [i8; 16]),
}

/// Chooses cells of `LEN` weights, one lane per row.
pub(crate) trait Settle<L: Lanes> {
    /// Weights of a cell: 1 or 8.
    const LEN: usize;
    /// What is chosen.
    type Cell: Copy;
    /// The cells nearest to the first `LEN` of `x` and the weights that they stand for; `importance` is that of the
    /// columns, `steps` are scale and min.
    fn settle(&mut self, x: &[L; 8], importance: &[f32], steps: (L, L)) -> ([Self::Cell; LANES], [L; 8]);
    /// Writes a cell among the codes of its block.
    fn put(codes: &mut BlockCodes, at: usize, cell: Self::Cell);
}

impl Scalars {
    /// The nearest code; of two that are as near the lower, where they are listed.
    #[inline(always)]
    pub(crate) fn nearest<L: Lanes>(&self, value: L) -> L {
        match self {
            Self::Whole(low, high) => value.max(L::splat(*low)).min(L::splat(*high)).nearest(),
            Self::Listed(values) => {
                let mut nearest = L::splat(f32::from(values[0]));
                for pair in values.array_windows() {
                    let [low, high] = pair.map(f32::from);
                    nearest = value.if_above(L::splat((low + high) / 2.0), L::splat(high), nearest);
                }
                nearest
            }
        }
    }
}

impl<L: Lanes> Settle<L> for Scalars {
    const LEN: usize = 1;
    type Cell = i8;

    #[inline(always)]
    fn settle(&mut self, x: &[L; 8], _: &[f32], (scale, min): (L, L)) -> ([i8; LANES], [L; 8]) {
        let code = self.nearest((x[0] + min) * scale.inverse());
        let mut values = [L::splat(0.0); 8];
        values[0] = code * scale - min;
        (code.store().map(|code| code as i32 as i8), values)
    }

    #[inline(always)]
    fn put(codes: &mut BlockCodes, at: usize, cell: i8) {
        codes.scalars[at] = cell;
    }
}

/// The points of a lattice, with room for its sums.
pub(crate) struct Octets<L> {
    lattice: &'static Lattice,
    tables: Tables<L>,
}

impl<L: Lanes> Octets<L> {
    #[inline(always)]
    pub(crate) fn new(lattice: &'static Lattice) -> Self {
        Self { lattice, tables: Tables::new() }
    }
}

impl<L: Lanes> Settle<L> for Octets<L> {
    const LEN: usize = 8;
    type Cell = Octet;

    #[inline(always)]
    fn settle(&mut self, x: &[L; 8], importance: &[f32], (scale, _): (L, L)) -> ([Octet; LANES], [L; 8]) {
        let (lattice, x) = (self.lattice, x.map(L::store));
        let mut rows: [[f32; 8]; LANES] = std::array::from_fn(|row| x.map(|x| x[row]));
        let signs = rows.map(|row| minus_signs(&row));
        rows.iter_mut().flatten().for_each(|x| *x = x.abs());
        let w: [f32; 8] = std::array::from_fn(|k| importance[k]);
        let query = Query {
            x: std::array::from_fn(|k| L::from_fn(|row| rows[row][k])),
            w: w.map(L::splat),
            scale,
            shift: 0.0,
            odd: L::from_fn(|row| lattice.is_odd(signs[row])),
        };
        let points = lattice.nearest(&query, &mut self.tables).1.map(L::store);
        let octets: [Octet; LANES] = std::array::from_fn(|row| {
            lattice.octet(points.map(|points| points[row] as u16), false, signs[row], &rows[row], &w)
        });
        let codes = octets.map(|octet| lattice.values(&octet));
        (octets, std::array::from_fn(|k| scale * L::from_fn(|row| codes[row][k])))
    }

    #[inline(always)]
    fn put(codes: &mut BlockCodes, at: usize, cell: Octet) {
        codes.octets[at / 8] = cell;
    }
}
