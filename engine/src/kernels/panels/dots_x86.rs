//! Products of words with inputs on AVX2 and AVX-512.
//!
//! What each function means is said in `dots.rs`.

use super::super::activations::QuantizedRow;
use super::super::avx2;
use super::codes::{PanelBlock, Scheme, unrolled};
use super::dots::{BlockDots, Dots, QUADS, TURNS, UnpackedDots, begin, end};
use super::packing::WORD;
use super::steps::{Step, UnpackedStep};
use super::words::{Words, instructions};
use super::words_x86::Pair;
use std::arch::asm;
use std::arch::x86_64::*;

impl Dots for __m512i {
    type Products = __m512i;

    instructions! {
        fn begin(offset: Option<*const i32>) -> Self {
            match offset {
                Some(offset) => _mm512_set1_epi32(offset.read()),
                None => _mm512_setzero_si512(),
            }
        }
        fn multiply<B: PanelBlock>(products: Self, _quad: usize, codes: Self, inputs: *const i32) -> Self {
            _mm512_dpbusd_epi32(products, codes, _mm512_set1_epi32(inputs.read_unaligned()))
        }
        fn end(products: Self, _offset: Option<*const i32>) -> Self { products }
    }
}

impl BlockDots for __m512i {
    instructions! {
        fn add_pairs(sums: Self, halves: Self, pair: *const i32) -> Self { add_pairs(sums, halves, pair) }
        fn subtract_product(sum: __m512, a: __m512, b: __m512) -> __m512 { _mm512_fnmadd_ps(a, b, sum) }
        fn add_scaled(sum: __m512, a: __m512, b: *const f32) -> __m512 {
            _mm512_fmadd_ps(a, _mm512_set1_ps(*b), sum)
        }
        fn settle_sums(products: Self, mins: Self, address: *const u8) -> (Self, Self, *const u8) {
            settle_sums(products, mins, address)
        }
    }

    #[inline(always)]
    unsafe fn add_codes<B: PanelBlock, S: Step<Self>, const N: usize>(
        sums: &mut [[Self; N]; TURNS],
        step: &S,
        inputs: *const i32,
    ) {
        // SAFETY: the caller has AVX-512 VNNI, a whole step, and `QUADS * N` words of inputs.
        unsafe {
            unrolled!(QUADS, |quad| {
                let codes = step.codes(quad);
                for (n, dot) in sums[turn_of::<N>(quad)].iter_mut().enumerate() {
                    *dot = Self::multiply::<B>(*dot, quad, codes, inputs.add(quad * N + n));
                }
            });
        }
    }
}

/// Whose turn it is, where sums of so many inputs take turns.
#[inline(always)]
const fn turn_of<const N: usize>(quad: usize) -> usize {
    if N < 4 { quad % TURNS } else { 0 }
}

/// [`BlockDots::settle_sums`] on AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
fn settle_sums(mut a: __m512i, mut b: __m512i, mut address: *const u8) -> (__m512i, __m512i, *const u8) {
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} */",
            inout(zmm_reg) a,
            inout(zmm_reg) b,
            inout(reg) address,
            options(nostack, preserves_flags)
        );
    }
    (a, b, address)
}

/// Adds the products of two halves of each word with those at the address. The compiler would take three instructions.
///
/// # Safety
/// Needs AVX-512 VNNI, and a word at the address.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_pairs(mut sum: __m512i, halves: __m512i, pair: *const i32) -> __m512i {
    // SAFETY: the caller has the instruction and a word at the address, which is read alone.
    unsafe {
        asm!(
            "vpdpwssd {sum}, {halves}, dword ptr [{pair}]{{1to16}}",
            sum = inout(zmm_reg) sum,
            halves = in(zmm_reg) halves,
            pair = in(reg) pair,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    sum
}

/// Products of a [`Pair`].
#[derive(Clone, Copy)]
pub(super) struct PairProducts {
    sums: [__m256i; 2],
    /// Without VNNI: sums of 16 bits, as long as they hold them.
    narrow: [__m256i; 2],
}

impl<const VNNI: bool> Dots for Pair<VNNI> {
    type Products = PairProducts;

    instructions! {
        fn begin(offset: Option<*const i32>) -> PairProducts {
            let zero = _mm256_setzero_si256();
            match offset {
                Some(offset) if VNNI => PairProducts { sums: [_mm256_set1_epi32(offset.read()); 2], narrow: [zero; 2] },
                _ => PairProducts { sums: [zero; 2], narrow: [zero; 2] },
            }
        }
        fn multiply<B: PanelBlock>(
            products: PairProducts,
            quad: usize,
            codes: Self,
            inputs: *const i32,
        ) -> PairProducts {
            let inputs = _mm256_set1_epi32(inputs.read_unaligned());
            let PairProducts { sums, narrow } = products;
            let (sum_0, narrow_0) = multiply::<B, VNNI>(sums[0], narrow[0], quad, codes.0, inputs);
            let (sum_1, narrow_1) = multiply::<B, VNNI>(sums[1], narrow[1], quad, codes.1, inputs);
            PairProducts { sums: [sum_0, sum_1], narrow: [narrow_0, narrow_1] }
        }
        fn end(products: PairProducts, offset: Option<*const i32>) -> Self {
            let sums = Self(products.sums[0], products.sums[1]);
            match offset {
                Some(offset) if !VNNI => sums.add(Self::splat(offset.read())),
                _ => sums,
            }
        }
    }
}

/// Fours of products that are added up in 16 bits without VNNI: as many as these hold of the largest that can come.
/// None where codes have signs, and pairs fill 16 bits.
const fn narrow_quads<B: PanelBlock, const VNNI: bool>() -> usize {
    if VNNI || const { Scheme::of::<B, Pair<VNNI>>().keeps_signs } {
        0
    } else {
        (i16::MAX as i32 / (2 * 127 * B::LARGEST)) as usize
    }
}

/// Whether a group's products stand in 16 bits after so many of its fours.
const fn stay_narrow<B: PanelBlock, const VNNI: bool>(quads: usize) -> bool {
    let at_once = narrow_quads::<B, VNNI>();
    at_once > 0 && !quads.is_multiple_of(at_once) && quads < B::GROUP / 4
}

/// Adds four products in each word to the sums; without VNNI by way of pairs.
#[inline(always)]
unsafe fn multiply<B: PanelBlock, const VNNI: bool>(
    sums: __m256i,
    narrow: __m256i,
    quad: usize,
    codes: __m256i,
    inputs: __m256i,
) -> (__m256i, __m256i) {
    // SAFETY: callers are compiled for AVX2, and have VNNI where they say so; there is no pointer.
    unsafe {
        if VNNI {
            return (_mm256_dpbusd_avx_epi32(sums, codes, inputs), narrow);
        }
        if const { Scheme::of::<B, Pair<VNNI>>().keeps_signs } {
            return (avx2::add_dots::<false>(sums, codes, inputs, true), narrow);
        }
        let pairs = _mm256_maddubs_epi16(codes, inputs);
        let is_first = quad.is_multiple_of(narrow_quads::<B, VNNI>());
        let narrow = if is_first { pairs } else { _mm256_add_epi16(narrow, pairs) };
        if stay_narrow::<B, VNNI>(quad + 1) {
            return (sums, narrow);
        }
        (_mm256_add_epi32(sums, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1))), narrow)
    }
}

impl PairProducts {
    /// Where a group's products stand after its four of that number.
    #[inline(always)]
    pub(super) fn current<B: PanelBlock, const VNNI: bool>(&mut self, quad: usize) -> &mut [__m256i; 2] {
        if stay_narrow::<B, VNNI>(quad + 1) { &mut self.narrow } else { &mut self.sums }
    }
}

/// For few registers: an input is loaded where it is multiplied.
impl<const VNNI: bool> UnpackedDots for Pair<VNNI> {
    #[inline(always)]
    unsafe fn dots<B: PanelBlock, const N: usize>(
        mut step: UnpackedStep,
        number: usize,
        inputs: &QuantizedRow<'_>,
    ) -> [Self; N] {
        let quads = const { B::GROUP / WORD };
        // SAFETY: the caller has the instructions and a whole step, and inputs have `quads * N` words for each of the
        // row's steps.
        unsafe {
            let mut fours = inputs.codes.as_ptr().cast::<i32>().add(number * quads * N);
            let mut products = begin::<B, Self, N>(number, inputs);
            unrolled!(quads, |quad| {
                let codes: Self = step.codes(quad);
                for (n, products) in products.iter_mut().enumerate() {
                    *products = Self::multiply::<B>(*products, quad, codes, fours.add(quad * N + n));
                }
                for products in &mut products {
                    settle_products(products.current::<B, VNNI>(quad), &mut step.codes, &mut fours);
                }
            });
            end::<B, Self, N>(products, number, inputs)
        }
    }
}

/// Products and the addresses of codes and inputs as they are, but the compiler cannot know: what follows is loaded after
/// the products are there. Otherwise it would load all of a group's inputs at once, and spill them.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn settle_products(
    [low, high]: &mut [__m256i; 2],
    codes: &mut *const u8,
    inputs: &mut *const i32,
) {
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} {} */",
            inout(ymm_reg) * low,
            inout(ymm_reg) * high,
            inout(reg) * codes,
            inout(reg) * inputs,
            options(nostack, preserves_flags)
        );
    }
}
