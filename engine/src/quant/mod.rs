//! Block formats: how weights are stored in few bits.
//!
//! One file per format and one line in the `formats!` list below; everything else (help text, tests, kernels,
//! the converter) iterates [`FORMATS`] or goes through [`visit`]. A format supplies `unpack`: its codes as signed
//! bytes with scales; dequantization and the generic kernels follow from it. Kernels live in `kernels/`.

mod bits;
mod compensate;
mod float;
mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod tq1_0;
mod tq2_0;
mod widen;
#[cfg(test)]
pub(crate) mod tests;

pub use compensate::Factor;
pub use float::{Bf16, F16, F32, Float, f16_from_f32, f16_to_f32};
pub use widen::{Portable, Widen};
pub(crate) use {
    iq4_nl::Iq4Nl, iq4_nl::VALUES as IQ4_VALUES, iq4_xs::Iq4Xs, mxfp4::DOUBLED as MXFP4_VALUES, mxfp4::Mxfp4,
    q2_k::Q2K, q3_k::Q3K, q4_0::Q4_0, q4_k::Q4K, q5_k::Q5K, q6_k::Q6K, q8_0::Q8_0,
};

use crate::simd::{Isa, Lanes, Work};
use bytemuck::{AnyBitPattern, NoUninit};
use compensate::Recoding;
use std::marker::PhantomData;

/// How many neighbouring activations share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// 32 of them.
    Fine,
    /// 256, for weights so coarse that the activations' rounding does not show.
    Coarse,
}

impl Grain {
    /// Activations that share a scale.
    pub const fn neighbours(self) -> usize {
        match self {
            Self::Fine => 32,
            Self::Coarse => 256,
        }
    }
}

/// A group of weights stored together; the unit of a quantized row.
///
/// A weight is `code * scale - min`, computed in f32 in this order. `code` fits a signed byte; `scale` and `min`
/// are shared by [`Block::GROUP`] consecutive weights.
pub trait Block: AnyBitPattern + NoUninit + Send + Sync {
    /// GGUF's name, e.g. `Q4_K`.
    const NAME: &'static str;
    /// GGUF's type number.
    const ID: u32;
    /// Weights per block: 32 or 256.
    const LEN: usize;
    /// Weights per scale: 16 or 32, a divisor of `LEN`.
    const GROUP: usize;
    /// Whether any group has a `min` other than zero; where false, `unpack` leaves `mins` alone.
    const HAS_MIN: bool;
    /// How the activations that meet these weights are rounded to bytes.
    const INPUTS: Grain = Grain::Fine;

    /// Writes `LEN` codes, `LEN / GROUP` scales and, with `HAS_MIN`, as many mins.
    ///
    /// The inner loop of the generic kernels: always inlined, so that it becomes vector code for the instruction
    /// set of its caller. Implementations keep to straight loops over arrays.
    fn unpack<W: Widen>(&self, codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]);

    /// The values of every point of a format whose codes name points, from the low byte of each word up: what kernels on
    /// devices look codes up in.
    fn points() -> Vec<u64> {
        vec![]
    }

    /// Writes the `LEN` weights. Equal to the reference implementation bit for bit.
    #[inline]
    fn dequantize(&self, weights: &mut [f32]) {
        let (mut codes, mut scales, mut mins) = ([0i8; 256], [0f32; 16], [0f32; 16]);
        self.unpack::<Portable>(&mut codes[..Self::LEN], &mut scales, &mut mins);
        for (i, (weight, &code)) in weights[..Self::LEN].iter_mut().zip(&codes).enumerate() {
            let product = code as f32 * scales[i / Self::GROUP];
            *weight = if Self::HAS_MIN { product - mins[i / Self::GROUP] } else { product };
        }
    }
}

/// A block format that can also be written.
///
/// Any weights are accepted. NaN counts as zero and an infinity as the largest finite magnitude of its block, so
/// that one bad weight spoils no other; a caller that wants to reject them looks before it quantizes. Where the
/// scale overflows F16 it stays at F16's largest value and the codes saturate; where it underflows the block
/// becomes zero.
pub trait Quantize: Block {
    /// Multiplies all that a block stands for, as far as its scales allow, so that it can get back the length that the
    /// least error takes away (`search/length.rs`). Formats with so many codes that none is missing have none.
    const STRETCH: Option<fn(&mut Self, f32)> = None;

    /// Quantizes `LEN` weights; `importance` holds one factor per weight where known. Always inlined, so that it
    /// is compiled for the instruction set of its caller, and the same bits on all of them.
    fn quantize<L: Lanes>(weights: &[f32], importance: Option<&[f32]>) -> Self;
}

/// What a format stores per element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floating point: activations stay f32.
    Float,
    /// Blocks of codes: activations are quantized to bytes.
    Blocks,
}

/// A quantizer over whole rows: weights, importance per weight of a row, destination bytes.
pub type QuantizeRow = fn(&[f32], Option<&[f32]>, &mut [u8]);

/// A block format with its type erased: one row of the table.
#[derive(Debug)]
pub struct Format {
    /// GGUF's name, e.g. `Q4_K`.
    pub name: &'static str,
    /// GGUF's type number.
    pub id: u32,
    /// Float or blocks.
    pub kind: Kind,
    /// Weights per block.
    pub block_len: usize,
    /// Bytes per block.
    pub block_bytes: usize,
    /// Bytes of whole blocks (any alignment) to weights; lengths must match.
    pub dequantize: fn(&[u8], &mut [f32]),
    /// Weights to bytes, where this format can be written.
    pub quantize: Option<QuantizeRow>,
    /// How errors can be made up for, see [`Format::compensate`].
    recoding: Option<Recoding>,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}
impl Eq for Format {}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Format {
    const fn blocks<B: Block>(quantize: Option<QuantizeRow>, recoding: Option<Recoding>) -> Self {
        assert!(B::LEN <= 256 && B::LEN % B::GROUP == 0 && B::GROUP >= 16);
        Self {
            name: B::NAME,
            id: B::ID,
            kind: Kind::Blocks,
            block_len: B::LEN,
            block_bytes: size_of::<B>(),
            dequantize: dequantize_blocks::<B>,
            quantize,
            recoding,
        }
    }

    const fn float<F: Float>() -> Self {
        Self {
            name: F::NAME,
            id: F::ID,
            kind: Kind::Float,
            block_len: 1,
            block_bytes: size_of::<F>(),
            dequantize: float::dequantize_row::<F>,
            quantize: Some(float::quantize_row::<F>),
            recoding: None,
        }
    }

    /// The format of a GGUF type number, [`INDICES`] included.
    pub fn by_id(id: u32) -> Option<&'static Format> {
        FORMATS.iter().chain([&INDICES]).find(|format| format.id == id)
    }

    /// The format of weights of a name, upper or lower case.
    pub fn by_name(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name.eq_ignore_ascii_case(name))
    }

    /// Bytes of `elements` weights; `None` where blocks do not divide them or the number overflows.
    pub fn bytes_for(&self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_len as u64) {
            return None;
        }
        (elements / self.block_len as u64).checked_mul(self.block_bytes as u64)
    }

    /// Bytes of a row of so many weights, which blocks divide.
    pub fn row_bytes(&self, columns: usize) -> usize {
        columns / self.block_len * self.block_bytes
    }

    /// Whether [`Format::compensate`] can write this format.
    pub fn compensates(&self) -> bool {
        self.recoding.is_some()
    }

    /// Quantizes up to sixteen rows so that what one weight's rounding does to the outputs is made up for by the
    /// weights after it, as `factors`, one after the other over the columns, tell.
    ///
    /// # Panics
    /// When the format cannot, or lengths do not fit: factors cover whole blocks.
    pub fn compensate(&self, weights: &[f32], factors: &[Factor], bytes: &mut [u8]) {
        let recoding = self.recoding.as_ref().expect("a format that compensates");
        recoding.run(Isa::detect(), weights, factors, bytes);
    }

    /// Average bits per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_bytes as f64 * 8.0 / self.block_len as f64
    }
}

fn dequantize_blocks<B: Block>(bytes: &[u8], weights: &mut [f32]) {
    assert_eq!(bytes.len() / size_of::<B>(), weights.len() / B::LEN);
    for (block, weights) in bytes.chunks_exact(size_of::<B>()).zip(weights.chunks_exact_mut(B::LEN)) {
        bytemuck::pod_read_unaligned::<B>(block).dequantize(weights);
    }
}

fn quantize_blocks<B: Quantize>(weights: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    quantize_blocks_on::<B>(Isa::detect(), weights, importance, bytes);
}

fn quantize_blocks_on<B: Quantize>(isa: Isa, weights: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) {
    assert_eq!(bytes.len() / size_of::<B>(), weights.len() / B::LEN);
    assert!(importance.is_none_or(|all| !all.is_empty() && all.len().is_multiple_of(B::LEN)));
    isa.run(QuantizeBlocks::<B> { weights, importance, bytes, format: PhantomData });
}

/// The loop over blocks, compiled for every instruction set.
struct QuantizeBlocks<'a, B> {
    weights: &'a [f32],
    importance: Option<&'a [f32]>,
    bytes: &'a mut [u8],
    format: PhantomData<B>,
}

impl<B: Quantize> Work for QuantizeBlocks<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let blocks = self.weights.chunks_exact(B::LEN).zip(self.bytes.chunks_exact_mut(size_of::<B>()));
        for (i, (weights, bytes)) in blocks.enumerate() {
            let importance = self.importance.map(|all| {
                let start = i * B::LEN % all.len();
                &all[start..start + B::LEN]
            });
            let mut block = B::quantize::<L>(weights, importance);
            search::restore_length::<L, B>(&mut block, weights, importance);
            bytes.copy_from_slice(bytemuck::bytes_of(&block));
        }
    }
}

/// Whole numbers of 32 bits, for tables of indices. No weights are in it, so it is not in [`FORMATS`].
pub static INDICES: Format = Format {
    name: "I32",
    id: 26,
    kind: Kind::Float,
    block_len: 1,
    block_bytes: 4,
    dequantize: |bytes, numbers| {
        let found = bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes) as f32);
        numbers.iter_mut().zip(found).for_each(|(number, found)| *number = found);
    },
    quantize: Some(|numbers, _, bytes| {
        for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *bytes = (number.round() as i32).to_le_bytes();
        }
    }),
    recoding: None,
};

/// Something to do with a format whose type is known only at run time; see [`visit`].
pub trait Visit {
    /// What comes out.
    type Output;
    /// The format stores blocks `B`.
    fn blocks<B: Block>(self) -> Self::Output;
    /// The format stores floats `F`.
    fn float<F: Float>(self) -> Self::Output;
}

/// Declares [`FORMATS`] and [`visit`] from one list.
macro_rules! formats {
    (float: $($float:ty),*; recoded: $($recoded:ty),*; plain: $($plain:ty),* $(;)?) => {
        /// Every format, in the order of GGUF's type numbers within each group.
        pub static FORMATS: &[Format] = &[
            $(Format::float::<$float>(),)*
            $(Format::blocks::<$recoded>(Some(quantize_blocks::<$recoded>), Some(Recoding::of::<$recoded>())),)*
            $(Format::blocks::<$plain>(Some(quantize_blocks::<$plain>), None),)*
        ];

        /// The quantizers of one instruction set, for the test that compares them.
        #[cfg(test)]
        type QuantizeOn = fn(Isa, &[f32], Option<&[f32]>, &mut [u8]);
        #[cfg(test)]
        static QUANTIZE_ON: &[(&str, QuantizeOn)] =
            &[$((<$plain as Block>::NAME, quantize_blocks_on::<$plain>),)* $((<$recoded as Block>::NAME, quantize_blocks_on::<$recoded>),)*];

        /// Calls the visitor with the Rust type of `format`: once per matrix, never per block.
        pub fn visit<V: Visit>(format: &Format, visitor: V) -> V::Output {
            $(if format.id == <$float as Float>::ID { return visitor.float::<$float>(); })*
            $(if format.id == <$plain as Block>::ID { return visitor.blocks::<$plain>(); })*
            $(if format.id == <$recoded as Block>::ID { return visitor.blocks::<$recoded>(); })*
            unreachable!("{format} is not in the table it came from")
        }
    };
}

formats! {
    float: F32, F16, Bf16;
    recoded: q4_0::Q4_0, q4_1::Q4_1, q5_0::Q5_0, q5_1::Q5_1, q2_k::Q2K, q3_k::Q3K, q4_k::Q4K, q5_k::Q5K, q6_k::Q6K,
        iq2_xxs::Iq2Xxs, iq2_xs::Iq2Xs, iq3_xxs::Iq3Xxs, iq4_nl::Iq4Nl, iq3_s::Iq3S, iq2_s::Iq2S, iq4_xs::Iq4Xs;
    plain: q8_0::Q8_0, iq1_s::Iq1S, iq1_m::Iq1M, tq1_0::Tq10, tq2_0::Tq20, mxfp4::Mxfp4;
}

/// [`Block::points`] of a format.
pub fn points_of(format: &Format) -> Vec<u64> {
    struct Points;
    impl Visit for Points {
        type Output = Vec<u64>;
        fn blocks<B: Block>(self) -> Vec<u64> {
            B::points()
        }
        fn float<F: Float>(self) -> Vec<u64> {
            vec![]
        }
    }
    visit(format, Points)
}

/// What kernels have to know of a block format.
#[derive(Clone, Copy, Debug)]
pub struct BlockShape {
    /// [`Block::GROUP`].
    pub group: usize,
    /// [`Block::HAS_MIN`].
    pub has_min: bool,
    /// [`Block::INPUTS`].
    pub inputs: Grain,
}

/// The shape of a format's blocks; `None` for floats.
pub fn shape_of(format: &Format) -> Option<BlockShape> {
    struct Shape;
    impl Visit for Shape {
        type Output = Option<BlockShape>;
        fn blocks<B: Block>(self) -> Option<BlockShape> {
            Some(BlockShape { group: B::GROUP, has_min: B::HAS_MIN, inputs: B::INPUTS })
        }
        fn float<F: Float>(self) -> Option<BlockShape> {
            None
        }
    }
    visit(format, Shape)
}
