//! Sixteen numbers side by side, as one register or as many as the instruction set needs.
//!
//! For work that is worth vector code but not a kernel per instruction set. Every operation but
//! [`Lanes::multiply_add`] is exact IEEE arithmetic in a fixed order, so results are the same bits everywhere.
//! [`super::dispatch`] chooses the type.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Isa;
use half::{bf16, f16};
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{widen, widen_upper};
use std::ops::{Add, Div, Mul, Sub};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// How many numbers there are.
pub const LANES: usize = 16;

/// 1.5 * 2^23. Added to a number of magnitude below 2^22 it rounds to the nearest whole number, halves to even, which
/// then stands in the last bits of the sum: a conversion, which saturates, would not vectorise.
pub const ROUND: f32 = 12_582_912.0;

/// The value of an F16, exactly, without branches.
///
/// Subnormal scales are common in K-quants, and arithmetic on a subnormal f32 would cost a microcode assist: one
/// is given the smallest normal exponent first, which the subtraction takes away again.
#[inline(always)]
pub fn f16_to_f32(value: f16) -> f32 {
    let bits = value.to_bits() as u32;
    let exponent = bits >> 10 & 31;
    let (subnormal, infinite_or_nan) = (u32::from(exponent == 0), u32::from(exponent == 31));
    let rebias = 112 + subnormal + 112 * infinite_or_nan;
    let magnitude = f32::from_bits(((bits & 0x7fff) << 13) + (rebias << 23));
    let surplus = f32::from_bits(subnormal * (113 << 23));
    f32::from_bits((magnitude - surplus).to_bits() | (bits & 0x8000) << 16)
}

/// Sixteen `f32`. Values are never NaN; what comparisons do with one is not specified.
pub trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// The instruction set that this belongs to.
    const ISA: Isa;
    /// How many running sums stay in registers beside what is added to them.
    const REGISTERS: usize;
    /// The same number in all lanes.
    fn splat(value: f32) -> Self;
    /// From memory.
    fn load(values: &[f32; LANES]) -> Self;
    /// From half precision, exactly; little-endian, as files have it.
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        let values = bytes.as_chunks::<2>().0;
        Self::from_fn(|lane| f16_to_f32(f16::from_le_bytes(values[lane])))
    }
    /// To memory.
    fn store(self) -> [f32; LANES];
    /// The smaller of each pair.
    fn min(self, other: Self) -> Self;
    /// The larger of each pair.
    fn max(self, other: Self) -> Self;
    /// `self * factor + sum`, rounded once where the instruction set fuses both, else twice: the only operation whose
    /// bits are not the same everywhere.
    fn multiply_add(self, factor: Self, sum: Self) -> Self;
    /// Both numbers of each lane as BF16, to nearest even: this one's bits below those of `upper`. A subnormal may
    /// become 0.
    #[inline(always)]
    fn pair(self, upper: Self) -> Self {
        let (lower, upper) = (self.store(), upper.store());
        Self::from_fn(|lane| pair(lower[lane], upper[lane]))
    }

    /// Adds the products of two pairs in each lane: the upper ones first, then the lower ones, each rounded once. A
    /// subnormal may be 0.
    #[inline(always)]
    fn add_pairs(self, a: Self, b: Self) -> Self {
        let (sums, a, b) = (self.store(), a.store(), b.store());
        Self::from_fn(|lane| add_pair(sums[lane], a[lane], b[lane]))
    }

    /// Rows become columns: lane `i` of the result `j` is lane `j` of `rows[i]`.
    #[inline(always)]
    fn turn(rows: [Self; LANES]) -> [Self; LANES] {
        let rows = rows.map(Self::store);
        std::array::from_fn(|column| Self::from_fn(|row| rows[row][column]))
    }

    /// Per lane `yes` where `self > limit`, else `no`.
    fn if_above(self, limit: Self, yes: Self, no: Self) -> Self;

    /// Whether any lane's number is below that of `other`.
    fn is_below_any(self, other: Self) -> bool;

    /// `f` of every lane's number.
    #[inline(always)]
    fn from_fn(f: impl Fn(usize) -> f32) -> Self {
        let mut values = [0.0; LANES];
        for (lane, value) in values.iter_mut().enumerate() {
            *value = f(lane);
        }
        Self::load(&values)
    }

    /// The nearest whole number, halves to even, for magnitudes below 2^22.
    #[inline(always)]
    fn nearest(self) -> Self {
        let shift = Self::splat(ROUND);
        (self + shift) - shift
    }

    /// Per lane `1 / self`, 0 for 0.
    #[inline(always)]
    fn inverse(self) -> Self {
        let zero = Self::splat(0.0);
        let inverse = Self::splat(1.0) / self;
        self.if_above(zero, inverse, zero.if_above(self, inverse, zero))
    }

    /// `self * 2^power` of whole numbers that are 0 or less; what would be subnormal may be 0.
    #[inline(always)]
    fn times_power(self, power: Self) -> Self {
        // A biased exponent of 0 makes 0.
        let exponents = power.max(Self::splat(-127.0)) + Self::splat(ROUND + 127.0);
        let exponents = exponents.store();
        self * Self::from_fn(|lane| f32::from_bits(exponents[lane].to_bits() << 23))
    }

    /// The sum of all lanes: halves, then quarters and so on.
    #[inline(always)]
    fn sum(self) -> f32 {
        join(self.store(), |a, b| a + b)
    }

    /// [`Lanes::sum`] of each: eight at once cost less than eight times one.
    #[inline(always)]
    fn sums(all: [Self; 8]) -> [f32; 8] {
        let mut sums = [0.0; 8];
        for (sum, lanes) in sums.iter_mut().zip(all) {
            *sum = lanes.sum();
        }
        sums
    }

    /// The smallest number.
    #[inline(always)]
    fn smallest(self) -> f32 {
        ordered(join(self.store().map(order), i32::min))
    }

    /// The first lane that holds the smallest number.
    #[inline(always)]
    fn least(self) -> usize {
        let smallest = self.smallest();
        self.store().iter().position(|&value| value == smallest).unwrap_or(0)
    }
}

/// A lane of [`Lanes::pair`].
#[inline(always)]
fn pair(lower: f32, upper: f32) -> f32 {
    let bits = |value: f32| bf16::from_f32(value).to_bits() as u32;
    f32::from_bits(bits(lower) | bits(upper) << 16)
}

/// A lane of [`Lanes::add_pairs`].
#[inline(always)]
fn add_pair(sum: f32, a: f32, b: f32) -> f32 {
    let upper = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
    let lower = |pair: f32| f32::from_bits(pair.to_bits() << 16);
    lower(a).mul_add(lower(b), upper(a).mul_add(upper(b), sum))
}

/// Joins sixteen values to one: the two halves, then the halves of that.
#[inline(always)]
fn join<T: Copy>(mut values: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            values[lane] = join(values[lane], values[lane + half]);
        }
    }
    values[0]
}

/// A whole number that orders as the value does.
#[inline(always)]
fn order(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ (bits >> 31 & i32::MAX)
}

/// The value of an [`order`].
#[inline(always)]
fn ordered(key: i32) -> f32 {
    f32::from_bits((key ^ (key >> 31 & i32::MAX)) as u32)
}

/// Plain Rust: the twin of the others.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

macro_rules! portable_operator {
    ($($trait:ident $method:ident $operator:tt),*) => {$(
        impl $trait for Portable {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(std::array::from_fn(|lane| self.0[lane] $operator other.0[lane]))
            }
        }
    )*};
}
portable_operator!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Lanes for Portable {
    const ISA: Isa = Isa::Portable;
    const REGISTERS: usize = 2;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        Self(*values)
    }
    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        self.0
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        other.if_above(self, self, other)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.if_above(other, self, other)
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, sum: Self) -> Self {
        self * factor + sum
    }
    #[inline(always)]
    fn if_above(self, limit: Self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] > limit.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn is_below_any(self, other: Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a < b)
    }
}
