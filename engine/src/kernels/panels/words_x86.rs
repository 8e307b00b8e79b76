//! Registers of words on AVX2 and AVX-512.
//!
//! What each function means is said in `words.rs`.

use super::packing::{Four, turn};
use super::words::{Words, instructions};
use std::arch::asm;
use std::arch::x86_64::*;

/// AVX-512 with VNNI.
impl Words for __m512i {
    type Floats = __m512;
    const LARGEST_CODE: i32 = 255;
    const LINE: usize = 64;
    const WRITTEN_OUT: usize = usize::MAX;
    const SUMS_BLOCKS: bool = true;
    const SCALES_CODES: bool = true;

    instructions! {
        fn load(address: *const u8) -> Self { _mm512_loadu_si512(address.cast()) }
        fn load_bytes(address: *const u8) -> Self { _mm512_cvtepu8_epi32(_mm_loadu_si128(address.cast())) }
        fn splat(word: i32) -> Self { _mm512_set1_epi32(word) }
        fn and(self, other: Self) -> Self { _mm512_and_si512(self, other) }
        fn or_masked(self, other: Self, mask: Self) -> Self {
            _mm512_ternarylogic_epi32::<0xf8>(self, other, mask)
        }
        fn flip(self, other: Self) -> Self { _mm512_xor_si512(self, other) }
        fn add(self, other: Self) -> Self { _mm512_add_epi32(self, other) }
        fn subtract(self, other: Self) -> Self { _mm512_sub_epi32(self, other) }
        fn times_halves(self, other: Self) -> Self { _mm512_mullo_epi16(self, other) }
        fn bytes_in_halves(self, numbers: [usize; 2]) -> Self {
            _mm512_shuffle_epi8(self, _mm512_broadcast_i32x4(bytes_in_halves(numbers)))
        }
        fn larger(self, other: Self) -> Self { _mm512_max_epi32(self, other) }
        fn smaller(self, other: Self) -> Self { _mm512_min_epi32(self, other) }
        fn right(self, count: i32) -> Self { _mm512_rorv_epi32(self, _mm512_set1_epi32(count)) }
        fn right_or_left(self, count: i32) -> Self { self.right(count) }
        fn right_signed(self, count: i32) -> Self { _mm512_srav_epi32(self, _mm512_set1_epi32(count)) }
        fn left(self, count: i32) -> Self { _mm512_sllv_epi32(self, _mm512_set1_epi32(count)) }
        fn look_up(self, table: &[i8; 16]) -> Self {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), self)
        }
        fn to_floats(self) -> __m512 { _mm512_cvtepi32_ps(self) }
        fn as_floats(self) -> __m512 { _mm512_castsi512_ps(self) }
        fn low_f16(self) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(self)) }
        fn load_f16(address: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(address.cast())) }
        fn store_words(self, address: *mut i8) { _mm512_storeu_si512(address.cast(), self) }
        fn load_floats(address: *const f32) -> __m512 { _mm512_loadu_ps(address) }
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn times(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn scaled(a: __m512, scale: *const f32) -> __m512 { _mm512_mul_ps(a, _mm512_set1_ps(*scale)) }
        fn add_product(sum: __m512, a: __m512, b: __m512) -> __m512 { _mm512_fmadd_ps(a, b, sum) }
        fn subtract_scaled(sum: __m512, a: __m512, b: *const f32) -> __m512 {
            _mm512_fnmadd_ps(a, _mm512_set1_ps(*b), sum)
        }
        fn store(floats: __m512, address: *mut f32) { _mm512_storeu_ps(address, floats) }
        fn settle(floats: __m512, address: *const u8) -> (__m512, *const u8) { settle(floats, address) }
        fn interleave(rows: [*const i8; 4], out: *mut i8, stride: usize) {
            let [a, b, c, d] = rows;
            let (a, b) = (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast()));
            let (c, d) = (_mm512_loadu_si512(c.cast()), _mm512_loadu_si512(d.cast()));
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            // Every fourth word, from the first on, from the second on and so forth.
            let turned = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ];
            for (k, words) in turned.into_iter().enumerate() {
                _mm_storeu_si128(out.add(k * stride).cast(), _mm512_castsi512_si128(words));
                _mm_storeu_si128(out.add((4 + k) * stride).cast(), _mm512_extracti32x4_epi32::<1>(words));
                _mm_storeu_si128(out.add((8 + k) * stride).cast(), _mm512_extracti32x4_epi32::<2>(words));
                _mm_storeu_si128(out.add((12 + k) * stride).cast(), _mm512_extracti32x4_epi32::<3>(words));
            }
        }
    }
}

/// The order of a shuffle for [`Words::bytes_in_halves`], of four words.
#[inline(always)]
unsafe fn bytes_in_halves([low, high]: [usize; 2]) -> __m128i {
    // Zeros come from places whose upper bit is set.
    let first = 0x8000_8000u32 as i32 | low as i32 | (high as i32) << 16;
    let next = 0x0004_0004;
    // SAFETY: every x86-64 has the instruction.
    unsafe { _mm_setr_epi32(first, first + next, first + 2 * next, first + 3 * next) }
}

/// [`Words::settle`] on AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
fn settle(mut floats: __m512, mut address: *const u8) -> (__m512, *const u8) {
    // SAFETY: there is no instruction.
    unsafe {
        asm!("/* {} {} */", inout(zmm_reg) floats, inout(reg) address, options(nostack, preserves_flags));
    }
    (floats, address)
}

/// AVX2, with and without VNNI: rows 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Pair<const VNNI: bool>(pub(super) __m256i, pub(super) __m256i);

/// Calls an instruction for both halves.
macro_rules! both {
    ($instruction:ident, $a:expr $(, $rest:expr)*) => {
        Self($instruction($a.0 $(, $rest.0)*), $instruction($a.1 $(, $rest.1)*))
    };
    (floats $instruction:ident, $a:expr $(, $rest:expr)*) => {
        ($instruction($a.0 $(, $rest.0)*), $instruction($a.1 $(, $rest.1)*))
    };
}

impl<const VNNI: bool> Words for Pair<VNNI> {
    type Floats = (__m256, __m256);
    const LARGEST_CODE: i32 = if VNNI { 255 } else { 64 };
    const LINE: usize = 16;
    const WRITTEN_OUT: usize = 2;
    const SUMS_BLOCKS: bool = !VNNI;
    const SCALES_CODES: bool = false;

    instructions! {
        fn load(address: *const u8) -> Self {
            Self(_mm256_loadu_si256(address.cast()), _mm256_loadu_si256(address.add(32).cast()))
        }
        fn load_bytes(address: *const u8) -> Self {
            let bytes = (_mm_loadl_epi64(address.cast()), _mm_loadl_epi64(address.add(8).cast()));
            both!(_mm256_cvtepu8_epi32, bytes)
        }
        fn splat(word: i32) -> Self { Self(_mm256_set1_epi32(word), _mm256_set1_epi32(word)) }
        fn and(self, other: Self) -> Self { both!(_mm256_and_si256, self, other) }
        fn or_masked(self, other: Self, mask: Self) -> Self {
            let masked = other.and(mask);
            both!(_mm256_or_si256, self, masked)
        }
        fn flip(self, other: Self) -> Self { both!(_mm256_xor_si256, self, other) }
        fn add(self, other: Self) -> Self { both!(_mm256_add_epi32, self, other) }
        fn subtract(self, other: Self) -> Self { both!(_mm256_sub_epi32, self, other) }
        fn times_halves(self, other: Self) -> Self { both!(_mm256_mullo_epi16, self, other) }
        fn bytes_in_halves(self, numbers: [usize; 2]) -> Self {
            let places = _mm256_broadcastsi128_si256(bytes_in_halves(numbers));
            both!(_mm256_shuffle_epi8, self, (places, places))
        }
        fn larger(self, other: Self) -> Self { both!(_mm256_max_epi32, self, other) }
        fn smaller(self, other: Self) -> Self { both!(_mm256_min_epi32, self, other) }
        fn right(self, count: i32) -> Self {
            let count = _mm256_set1_epi32(count);
            both!(_mm256_srlv_epi32, self, (count, count))
        }
        fn right_or_left(self, count: i32) -> Self {
            // Either count is far too large and leaves zeros, or both are none.
            let (right, left) = (self.right(count), self.left(-count));
            both!(_mm256_or_si256, right, left)
        }
        fn right_signed(self, count: i32) -> Self {
            let count = _mm256_set1_epi32(count);
            both!(_mm256_srav_epi32, self, (count, count))
        }
        fn left(self, count: i32) -> Self {
            let count = _mm256_set1_epi32(count);
            both!(_mm256_sllv_epi32, self, (count, count))
        }
        fn look_up(self, table: &[i8; 16]) -> Self {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            both!(_mm256_shuffle_epi8, (table, table), self)
        }
        fn to_floats(self) -> (__m256, __m256) { both!(floats _mm256_cvtepi32_ps, self) }
        fn as_floats(self) -> (__m256, __m256) { both!(floats _mm256_castsi256_ps, self) }
        fn low_f16(self) -> (__m256, __m256) {
            let low = self.and(Self::splat(0xffff));
            // Packing goes by halves of a register: words 0 to 3 of both, then 4 to 7 of both.
            let packed = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(low.0, low.1));
            let halves = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
            both!(floats _mm256_cvtph_ps, halves)
        }
        fn load_f16(address: *const u8) -> (__m256, __m256) {
            let halves = (_mm_loadu_si128(address.cast()), _mm_loadu_si128(address.add(16).cast()));
            both!(floats _mm256_cvtph_ps, halves)
        }
        fn store_words(self, address: *mut i8) {
            _mm256_storeu_si256(address.cast(), self.0);
            _mm256_storeu_si256(address.add(32).cast(), self.1);
        }
        fn load_floats(address: *const f32) -> (__m256, __m256) {
            (_mm256_loadu_ps(address), _mm256_loadu_ps(address.add(8)))
        }
        fn zero() -> (__m256, __m256) { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
        fn times(a: (__m256, __m256), b: (__m256, __m256)) -> (__m256, __m256) {
            both!(floats _mm256_mul_ps, a, b)
        }
        fn scaled(a: (__m256, __m256), scale: *const f32) -> (__m256, __m256) {
            let scale = _mm256_broadcast_ss(&*scale);
            Self::times(a, (scale, scale))
        }
        fn add_product(
            sum: (__m256, __m256),
            a: (__m256, __m256),
            b: (__m256, __m256),
        ) -> (__m256, __m256) {
            both!(floats _mm256_fmadd_ps, a, b, sum)
        }
        fn subtract_scaled(sum: (__m256, __m256), a: (__m256, __m256), b: *const f32) -> (__m256, __m256) {
            let b = _mm256_broadcast_ss(&*b);
            both!(floats _mm256_fnmadd_ps, a, (b, b), sum)
        }
        fn store(floats: (__m256, __m256), address: *mut f32) {
            _mm256_storeu_ps(address, floats.0);
            _mm256_storeu_ps(address.add(8), floats.1);
        }
        fn settle(
            floats: (__m256, __m256),
            address: *const u8,
        ) -> ((__m256, __m256), *const u8) {
            settle_pair(floats, address)
        }
        fn interleave(rows: [*const i8; 4], out: *mut i8, stride: usize) {
            let [a, b, c, d] = rows;
            let turned = turn([&*a.cast(), &*b.cast(), &*c.cast(), &*d.cast()]);
            for (k, words) in turned.iter().enumerate() {
                out.add(k * stride).cast::<Four>().write(*words);
            }
        }
    }
}

/// [`Words::settle`] on AVX2.
#[inline]
#[target_feature(enable = "avx2")]
fn settle_pair(floats: (__m256, __m256), mut address: *const u8) -> ((__m256, __m256), *const u8) {
    let (mut low, mut high) = floats;
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} */",
            inout(ymm_reg) low,
            inout(ymm_reg) high,
            inout(reg) address,
            options(nostack, preserves_flags)
        );
    }
    ((low, high), address)
}
