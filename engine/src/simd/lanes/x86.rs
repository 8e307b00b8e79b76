//! The registers of AVX2 and AVX-512.
//!
//! Only [`crate::simd::dispatch`] uses these types, in functions that are compiled for the instructions and called
//! where the machine has them: that is what every `unsafe` below relies on.
#![allow(unsafe_code)]

use super::{Add, Div, Isa, LANES, Lanes, Mul, ROUND, Sub, add_pair, pair};
use std::arch::x86_64::*;
use std::mem::transmute;

/// Two registers of AVX2.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Avx2(__m256, __m256);

/// One register of AVX-512, with or without its products of BF16.
#[derive(Clone, Copy)]
pub(in crate::simd) struct Avx512<const BF16: bool>(__m512);

macro_rules! operator {
    ($($trait:ident $method:ident $narrow:ident $wide:ident),*) => {$(
        impl $trait for Avx2 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the machine has AVX2, see the module.
                unsafe { Self($narrow(self.0, other.0), $narrow(self.1, other.1)) }
            }
        }
        impl<const BF16: bool> $trait for Avx512<BF16> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the machine has AVX-512, see the module.
                unsafe { Self($wide(self.0, other.0)) }
            }
        }
    )*};
}
operator!(
    Add add _mm256_add_ps _mm512_add_ps,
    Sub sub _mm256_sub_ps _mm512_sub_ps,
    Mul mul _mm256_mul_ps _mm512_mul_ps,
    Div div _mm256_div_ps _mm512_div_ps
);

impl Lanes for Avx2 {
    const ISA: Isa = Isa::Avx2;
    const REGISTERS: usize = 6;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the machine has AVX2, see the module.
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        // SAFETY: the machine has AVX2, see the module; both reads lie inside the array.
        unsafe { Self(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        // SAFETY: the machine has AVX2, see the module, with F16C; both reads lie inside the array.
        unsafe {
            let halves = bytes.as_ptr().cast::<__m128i>();
            let (first, second) = (_mm_loadu_si128(halves), _mm_loadu_si128(halves.add(1)));
            Self(_mm256_cvtph_ps(first), _mm256_cvtph_ps(second))
        }
    }
    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: the machine has AVX2, see the module; both writes lie inside the array.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), self.0);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), self.1);
        }
        values
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the machine has AVX2, see the module.
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the machine has AVX2, see the module.
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the machine has FMA, see the module.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, sum.0), _mm256_fmadd_ps(self.1, factor.1, sum.1)) }
    }
    #[inline(always)]
    fn if_above(self, limit: Self, yes: Self, no: Self) -> Self {
        // SAFETY: the machine has AVX2, see the module.
        unsafe {
            let first = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, limit.0);
            let second = _mm256_cmp_ps::<_CMP_GT_OQ>(self.1, limit.1);
            Self(_mm256_blendv_ps(no.0, yes.0, first), _mm256_blendv_ps(no.1, yes.1, second))
        }
    }
    #[inline(always)]
    fn is_below_any(self, other: Self) -> bool {
        // SAFETY: the machine has AVX2, see the module.
        unsafe {
            let first = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0);
            let second = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, other.1);
            _mm256_movemask_ps(_mm256_or_ps(first, second)) != 0
        }
    }
    #[inline(always)]
    fn times_power(self, power: Self) -> Self {
        // A biased exponent of 0 makes 0.
        let exponents = power.max(Self::splat(-127.0)) + Self::splat(ROUND + 127.0);
        // SAFETY: the machine has AVX2, see the module.
        unsafe {
            let first = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponents.0));
            let second = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponents.1));
            self * Self(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the machine has AVX2, see the module.
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }
    #[inline(always)]
    fn sums(all: [Self; 8]) -> [f32; 8] {
        // SAFETY: the machine has AVX2, see the module; an array of eight numbers is a register.
        unsafe { transmute(sums_of_narrow(&all)) }
    }
    #[inline(always)]
    fn smallest(self) -> f32 {
        // SAFETY: the machine has AVX2, see the module.
        unsafe { smallest_of_eight(_mm256_min_ps(self.0, self.1)) }
    }
    #[inline(always)]
    fn least(self) -> usize {
        let smallest = self.smallest();
        // SAFETY: the machine has AVX2, see the module.
        let lanes = unsafe {
            let smallest = _mm256_set1_ps(smallest);
            let first = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, smallest));
            let second = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, smallest));
            first as u32 | (second as u32) << 8
        };
        lanes.trailing_zeros() as usize % LANES
    }
}

impl<const BF16: bool> Lanes for Avx512<BF16> {
    const ISA: Isa = Isa::Avx512Vnni;
    const REGISTERS: usize = 24;
    #[inline(always)]
    fn pair(self, upper: Self) -> Self {
        if !BF16 {
            return Self::from_fn(|lane| pair(self.store()[lane], upper.store()[lane]));
        }
        // SAFETY: the machine has AVX-512 with BF16, see the module; the order is a register.
        unsafe {
            let order = _mm512_loadu_si512(ONE_OF_EACH.as_ptr().cast());
            let rounded = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper.0, self.0));
            Self(_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, rounded)))
        }
    }
    #[inline(always)]
    fn add_pairs(self, a: Self, b: Self) -> Self {
        if !BF16 {
            return Self::from_fn(|lane| add_pair(self.store()[lane], a.store()[lane], b.store()[lane]));
        }
        // SAFETY: the machine has AVX-512, see the module.
        unsafe {
            let a = transmute::<__m512, __m512bh>(a.0);
            let b = transmute::<__m512, __m512bh>(b.0);
            Self(_mm512_dpbf16_ps(self.0, a, b))
        }
    }
    #[inline(always)]
    fn turn(rows: [Self; LANES]) -> [Self; LANES] {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { turn(rows) }
    }
    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    fn load(values: &[f32; LANES]) -> Self {
        // SAFETY: the machine has AVX-512, see the module; the read is the array.
        unsafe { Self(_mm512_loadu_ps(values.as_ptr())) }
    }
    #[inline(always)]
    fn load_f16(bytes: &[u8; 2 * LANES]) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn store(self) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        // SAFETY: the machine has AVX-512, see the module; the write is the array.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) };
        values
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn multiply_add(self, factor: Self, sum: Self) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, sum.0)) }
    }
    #[inline(always)]
    fn if_above(self, limit: Self, yes: Self, no: Self) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, limit.0);
            Self(_mm512_mask_blend_ps(above, no.0, yes.0))
        }
    }
    #[inline(always)]
    fn is_below_any(self, other: Self) -> bool {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) != 0 }
    }
    #[inline(always)]
    fn times_power(self, power: Self) -> Self {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { Self(_mm512_scalef_ps(self.0, power.0)) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { sum_of_eight(_mm256_add_ps(_mm512_castps512_ps256(self.0), upper(self.0))) }
    }
    #[inline(always)]
    fn sums(all: [Self; 8]) -> [f32; 8] {
        // SAFETY: the machine has AVX-512, see the module; an array of eight numbers is a register.
        unsafe { transmute(sums_of_wide(&all)) }
    }
    #[inline(always)]
    fn smallest(self) -> f32 {
        // SAFETY: the machine has AVX-512, see the module.
        unsafe { smallest_of_eight(_mm256_min_ps(_mm512_castps512_ps256(self.0), upper(self.0))) }
    }
    #[inline(always)]
    fn least(self) -> usize {
        let smallest = self.smallest();
        // SAFETY: the machine has AVX-512, see the module.
        let lanes = unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, _mm512_set1_ps(smallest)) };
        lanes.trailing_zeros() as usize % LANES
    }
}

/// # Safety
/// Needs AVX-512 with DQ.
#[inline(always)]
unsafe fn upper(all: __m512) -> __m256 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe { _mm512_extractf32x8_ps::<1>(all) }
}

/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn sum_of_eight(all: __m256) -> f32 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Halves are added again and again, those of several in one register.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn sums_of_narrow(all: &[Avx2; 8]) -> __m256 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let (a, b) = (fours_of_two(all[0], all[4]), fours_of_two(all[1], all[5]));
        let (c, d) = (fours_of_two(all[2], all[6]), fours_of_two(all[3], all[7]));
        let ab = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
        let cd = _mm256_add_ps(_mm256_shuffle_ps::<0x44>(c, d), _mm256_shuffle_ps::<0xee>(c, d));
        _mm256_add_ps(_mm256_shuffle_ps::<0x88>(ab, cd), _mm256_shuffle_ps::<0xdd>(ab, cd))
    }
}

/// Four sums of each.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn fours_of_two(a: Avx2, b: Avx2) -> __m256 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let (a, b) = (_mm256_add_ps(a.0, a.1), _mm256_add_ps(b.0, b.1));
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
    }
}

/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn sums_of_wide<const BF16: bool>(all: &[Avx512<BF16>; 8]) -> __m256 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let (a, b) = (fours_of_four(all, [0, 2, 4, 6]), fours_of_four(all, [1, 3, 5, 7]));
        let twos = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
        let sums = _mm512_add_ps(twos, _mm512_movehdup_ps(twos));
        // Every second lane.
        _mm512_castps512_ps256(_mm512_maskz_compress_ps(0x5555, sums))
    }
}

/// Four sums of each of four.
///
/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn fours_of_four<const BF16: bool>(all: &[Avx512<BF16>; 8], [a, b, c, d]: [usize; 4]) -> __m512 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let (ab, cd) = (eights_of_two(all[a], all[b]), eights_of_two(all[c], all[d]));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd))
    }
}

/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn eights_of_two<const BF16: bool>(a: Avx512<BF16>, b: Avx512<BF16>) -> __m512 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a.0, b.0), _mm512_shuffle_f32x4::<0xee>(a.0, b.0)) }
}

/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn smallest_of_eight(all: __m256) -> f32 {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let four = _mm_min_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
        let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
    }
}

/// Sixteen numbers and the sixteen behind them, in turn.
static ONE_OF_EACH: [u16; 2 * LANES] = {
    let mut order = [0; 2 * LANES];
    let mut lane = 0;
    while lane < LANES {
        order[2 * lane] = lane as u16;
        order[2 * lane + 1] = (LANES + lane) as u16;
        lane += 1;
    }
    order
};

/// [`Lanes::turn`]: words of four rows stand side by side in every quarter of a register, then quarters change places.
///
/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn turn<const BF16: bool>(rows: [Avx512<BF16>; LANES]) -> [Avx512<BF16>; LANES] {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe {
        let mut fours = [_mm512_setzero_ps(); LANES];
        for i in 0..4 {
            let [a, b, c, d] = [rows[4 * i].0, rows[4 * i + 1].0, rows[4 * i + 2].0, rows[4 * i + 3].0];
            let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            fours[i] = _mm512_shuffle_ps::<0x44>(ab, cd);
            fours[4 + i] = _mm512_shuffle_ps::<0xee>(ab, cd);
            fours[8 + i] = _mm512_shuffle_ps::<0x44>(ab_high, cd_high);
            fours[12 + i] = _mm512_shuffle_ps::<0xee>(ab_high, cd_high);
        }
        let mut columns = rows;
        for i in 0..4 {
            let [a, b, c, d] = [fours[4 * i], fours[4 * i + 1], fours[4 * i + 2], fours[4 * i + 3]];
            let (ab, ab_high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd, cd_high) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            columns[i] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab, cd));
            columns[4 + i] = Avx512(_mm512_shuffle_f32x4::<0x88>(ab_high, cd_high));
            columns[8 + i] = Avx512(_mm512_shuffle_f32x4::<0xdd>(ab, cd));
            columns[12 + i] = Avx512(_mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high));
        }
        columns
    }
}
