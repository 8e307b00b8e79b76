//! Registers of words: a 32-bit word of each of a panel's sixteen rows, and what the kernels do with sixteen of them.
//!
//! AVX-512 has one register for them, AVX2 takes two, NEON four. Results are the same to the bit: products of whole
//! numbers are exact, and floats are multiplied and added alike. What each set does is in `words_x86.rs` and
//! `words_neon.rs`.

/// One word per row.
///
/// # Safety
/// Everything here needs the instructions of the implementing set, and behind pointers what it reads or writes: sixteen
/// words, F16 numbers, floats or bytes, or one float where it is a factor for all rows.
pub(super) trait Words: Copy {
    /// A float per row.
    type Floats: Copy;
    /// The largest code that products take; formats with larger ones give their codes with signs.
    const LARGEST_CODE: i32;
    /// For so few inputs the steps of a block are written out.
    const WRITTEN_OUT: usize;
    /// Whether scales and mins of a block leave so few registers that half of its steps are written out.
    const HALVES_BLOCKS: bool = false;
    /// Whether blocks with whole scales are added up as whole numbers.
    const SUMS_BLOCKS: bool;
    /// Whether their codes are multiplied with the scales before the inputs come.
    const SCALES_CODES: bool;
    /// Whether weights are asked for twice, for the nearest cache, too.
    const ASKS_TWICE: bool = true;
    /// Whether tiles have eight codes of each of their inputs in turn, instead of four.
    const TAKES_EIGHTS: bool = false;

    unsafe fn load(address: *const u8) -> Self;
    /// Sixteen bytes, from 0 up.
    unsafe fn load_bytes(address: *const u8) -> Self;
    unsafe fn splat(word: i32) -> Self;
    unsafe fn store_words(self, address: *mut i8);
    unsafe fn and(self, other: Self) -> Self;
    /// `self | other & mask`, where `self` has no bit of the mask.
    unsafe fn or_masked(self, other: Self, mask: Self) -> Self;
    unsafe fn flip(self, other: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn subtract(self, other: Self) -> Self;
    /// Products of halves of words, the lower sixteen bits of each.
    unsafe fn times_halves(self, other: Self) -> Self;
    /// Two bytes of each word, from 0 up, the first in the lower half and the second in the upper.
    unsafe fn bytes_in_halves(self, numbers: [usize; 2]) -> Self;
    /// The larger of each two, with signs.
    unsafe fn larger(self, other: Self) -> Self;
    /// The smaller of each two, with signs.
    unsafe fn smaller(self, other: Self) -> Self;
    /// Moves bits right. What leaves a word may come back at its other end or not, here and below.
    unsafe fn right(self, count: i32) -> Self;
    /// Moves bits right, negative counts left.
    unsafe fn right_or_left(self, count: i32) -> Self;
    /// Some bits of each byte: moved right, and as many as the mask has.
    #[inline(always)]
    unsafe fn bits(self, right: i32, mask: i8) -> Self {
        // SAFETY: the caller has the instructions, and there is no pointer.
        unsafe { self.right(right).and(in_all_bytes(mask)) }
    }
    /// Moves bits right and repeats the sign.
    unsafe fn right_signed(self, count: i32) -> Self;
    /// Moves bits left, zeros follow.
    unsafe fn left(self, count: i32) -> Self;
    /// Values of a table at the indices below 16 in all bytes.
    unsafe fn look_up(self, table: &[i8; 16]) -> Self;

    /// The numbers as floats.
    unsafe fn to_floats(self) -> Self::Floats;
    /// The bits as floats.
    unsafe fn as_floats(self) -> Self::Floats;
    /// The F16 numbers in the low halves.
    unsafe fn low_f16(self) -> Self::Floats;
    /// Sixteen F16 numbers.
    unsafe fn load_f16(address: *const u8) -> Self::Floats;
    unsafe fn load_floats(address: *const f32) -> Self::Floats;
    unsafe fn zero() -> Self::Floats;
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a` times the float at the address.
    unsafe fn scaled(a: Self::Floats, scale: *const f32) -> Self::Floats;
    /// `sum + a * b`, rounded once.
    unsafe fn add_product(sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `sum - a * b` with the float at the address, rounded once.
    unsafe fn subtract_scaled(sum: Self::Floats, a: Self::Floats, b: *const f32) -> Self::Floats;
    unsafe fn store(floats: Self::Floats, address: *mut f32);
    /// Both as they are, but the compiler cannot know: what follows from the address is loaded after the floats are
    /// there. Otherwise it would begin a block with all of its loads, and spill them.
    unsafe fn settle(floats: Self::Floats, address: *const u8) -> (Self::Floats, *const u8);

    /// What [`Words::interleave`] reads of a row.
    const LINE: usize;
    /// Lays a line of four rows side by side: a word of each, and the next ones `stride` bytes further.
    unsafe fn interleave(rows: [*const i8; 4], out: *mut i8, stride: usize);
}

/// A byte in all bytes.
///
/// # Safety
/// Needs the instructions of `W`.
#[inline(always)]
pub(super) unsafe fn in_all_bytes<W: Words>(byte: i8) -> W {
    // SAFETY: the caller has the instructions, and there is no pointer.
    unsafe { W::splat(i32::from_ne_bytes([byte as u8; 4])) }
}

/// Functions whose whole body is unsafe and that are part of their caller.
macro_rules! instructions {
    ($($(#[$doc:meta])* fn $name:ident $(<$block:ident: $bound:ident>)? ($($arguments:tt)*) $(-> $out:ty)? $body:block)*) => {
        $($(#[$doc])*
        #[inline(always)]
        #[allow(unused_unsafe)]
        unsafe fn $name $(<$block: $bound>)? ($($arguments)*) $(-> $out)? {
            // SAFETY: the caller has what the `# Safety` of the trait, or of the file, asks for.
            unsafe { $body }
        })*
    };
}
pub(super) use instructions;
