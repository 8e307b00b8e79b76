//! Products of a step's codes with inputs, added up as whole numbers: one input or a tile, each row in its lane.
//!
//! What each set does is in `dots_x86.rs` and `dots_neon.rs`.

use super::super::activations::QuantizedRow;
use super::codes::{PanelBlock, Scheme};
use super::steps::{Step, UnpackedStep};
use super::words::Words;

/// What multiplies words with inputs. The conditions of [`Words`] hold here, too.
pub(super) trait Dots: Words {
    /// Products of a group while they are added up.
    type Products: Copy;

    /// No products yet, but the number at the address for all rows, if there is one.
    unsafe fn begin(offset: Option<*const i32>) -> Self::Products;
    /// Adds each row's four codes times the four inputs at the address. `quad` counts a group's fours from 0; codes have
    /// signs in formats whose codes are too large without.
    unsafe fn multiply<B: PanelBlock>(
        products: Self::Products,
        quad: usize,
        codes: Self,
        inputs: *const i32,
    ) -> Self::Products;
    /// The same for all fours of a step, which has `quads` of them, and all inputs of a tile; its codes are at `inputs`
    /// from this step's on.
    #[inline(always)]
    unsafe fn add_products<B: PanelBlock, S: Step<Self>, const N: usize>(
        products: &mut [Self::Products; N],
        step: &S,
        quads: usize,
        inputs: *const i32,
    ) {
        // SAFETY: the caller has the instructions, a whole step, and `quads * N` words of inputs.
        unsafe {
            for quad in 0..quads {
                let codes = step.codes(quad);
                for (n, products) in products.iter_mut().enumerate() {
                    *products = Self::multiply::<B>(*products, quad, codes, inputs.add(quad * N + n));
                }
            }
        }
    }
    /// The sums, given the same offset as at the beginning.
    unsafe fn end(products: Self::Products, offset: Option<*const i32>) -> Self;
}

/// Registers that take steps out of memory.
pub(super) trait UnpackedDots: Dots {
    /// [`dots`] of such a step.
    ///
    /// # Safety
    /// As there; the step's pointers must lead to all of its numbers.
    unsafe fn dots<B: PanelBlock, const N: usize>(
        step: UnpackedStep,
        number: usize,
        inputs: &QuantizedRow<'_>,
    ) -> [Self; N];
}

/// Products may be added up in turns: a few inputs would wait for each addition to end.
pub(super) const TURNS: usize = 2;

/// Fours of codes in a step.
pub(super) const QUADS: usize = 8;

/// What the products of whole blocks need of a set, beside [`Dots`], whose conditions hold here, too.
pub(super) trait BlockDots: Dots {
    /// Adds the products of a step's codes with those of all inputs of a tile, which are at the address.
    unsafe fn add_codes<B: PanelBlock, S: Step<Self>, const N: usize>(
        sums: &mut [[Self::Products; N]; TURNS],
        step: &S,
        inputs: *const i32,
    );
    /// Adds the products of both halves of each word with those at the address.
    unsafe fn add_pairs(sums: Self, halves: Self, pair: *const i32) -> Self;
    /// `sum - a * b`, rounded once.
    unsafe fn subtract_product(sum: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `sum + a * b` with the float at the address, rounded once.
    unsafe fn add_scaled(sum: Self::Floats, a: Self::Floats, b: *const f32) -> Self::Floats;
    /// [`Words::settle`] for whole numbers.
    unsafe fn settle_sums(
        products: Self::Products,
        mins: Self,
        address: *const u8,
    ) -> (Self::Products, Self, *const u8);
}

/// The products of a step's codes; `number` counts the row's steps.
///
/// # Safety
/// Needs the instructions of `W`; the inputs must be whole.
#[inline(always)]
pub(super) unsafe fn dots<B: PanelBlock, W: Dots, const N: usize>(
    step: &impl Step<W>,
    number: usize,
    inputs: &QuantizedRow<'_>,
) -> [W; N] {
    let quads = const { Scheme::of::<B, W>().columns } / 4;
    // SAFETY: the caller has the instructions and a whole step, and inputs have `quads * N` words for each of the
    // row's steps.
    unsafe {
        let mut products = begin::<B, W, N>(number, inputs);
        let fours = inputs.codes.as_ptr().cast::<i32>().add(number * quads * N);
        W::add_products::<B, _, N>(&mut products, step, quads, fours);
        end::<B, W, N>(products, number, inputs)
    }
}

/// No products of a step yet.
///
/// # Safety
/// As above, here and below.
#[inline(always)]
pub(super) unsafe fn begin<B: PanelBlock, W: Dots, const N: usize>(
    number: usize,
    inputs: &QuantizedRow<'_>,
) -> [W::Products; N] {
    // SAFETY: the caller has the instructions, and inputs have an offset per step and input where any is read.
    unsafe {
        let mut products = [W::begin(None); N];
        if const { Scheme::of::<B, W>().reads_offsets } {
            let offsets = inputs.offsets.as_ptr().add(number * N);
            for (n, products) in products.iter_mut().enumerate() {
                *products = W::begin(Some(offsets.add(n)));
            }
        }
        products
    }
}

/// The sums of a step's products.
#[inline(always)]
pub(super) unsafe fn end<B: PanelBlock, W: Dots, const N: usize>(
    products: [W::Products; N],
    number: usize,
    inputs: &QuantizedRow<'_>,
) -> [W; N] {
    // SAFETY: the caller has the instructions, and inputs have an offset per step and input where any is read.
    unsafe {
        let offsets = inputs.offsets.as_ptr().wrapping_add(number * N);
        let mut dots = [W::splat(0); N];
        for (n, (dots, products)) in dots.iter_mut().zip(products).enumerate() {
            let offset =
                if const { Scheme::of::<B, W>().reads_offsets } { Some(offsets.add(n)) } else { None };
            *dots = W::end(products, offset);
        }
        dots
    }
}
