//! CPU tensors as slices: what the fast forms of the functions stand on. No maths.

use crate::Result;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, StorageRef, Tensor, WithDType};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;

/// Rows that one parallel task takes at least: enough work to pay for its start.
pub(super) const ROWS: usize = 32;

/// The numbers that have fast forms: f32, and f64 for checking gradients.
pub(crate) trait Real: WithDType + std::iter::Sum + std::ops::Neg<Output = Self> {
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn erf(self) -> Self;
    fn ln(self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! real {
    ($type:ty, $variant:ident, $exp:expr, $erf:path) => {
        impl Real for $type {
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn ln(self) -> Self {
                self.ln()
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                if other > self { other } else { self }
            }
            fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    };
}
real!(f32, F32, moewe_engine::ops::exp, libm::erff);
real!(f64, F64, f64::exp, libm::erf);

/// Whether the fast forms can work on `tensor`.
pub(crate) fn is_host(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// `tensor` in the precision of sums: f64 stays, everything else becomes f32.
pub(crate) fn wide(tensor: &Tensor) -> Result<Tensor> {
    Ok(if tensor.dtype() == DType::F64 { tensor.clone() } else { tensor.to_dtype(DType::F32)? })
}

/// The values of a contiguous CPU tensor, borrowed while this lives.
pub(crate) struct Held<'a, T> {
    guard: StorageRef<'a>,
    start: usize,
    length: usize,
    kind: PhantomData<T>,
}

impl<T: Real> Deref for Held<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let Storage::Cpu(storage) = &*self.guard else { unreachable!("checked when it was taken") };
        let values = T::cpu_storage_as_slice(storage).unwrap_or_else(|_| unreachable!("checked as well"));
        &values[self.start..][..self.length]
    }
}

/// Borrows the values of `tensor`.
///
/// # Errors
/// It is not contiguous, not on the CPU or not of the type `T`.
pub(crate) fn hold<T: Real>(tensor: &Tensor) -> Result<Held<'_, T>> {
    let (guard, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*guard else { return Err(refusal("a CPU tensor is needed").into()) };
    T::cpu_storage_as_slice(storage)?;
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(refusal("a contiguous tensor is needed").into());
    };
    Ok(Held { guard, start, length: end - start, kind: PhantomData })
}

fn refusal(why: &str) -> candle_core::Error {
    candle_core::Error::Msg(why.to_owned())
}

struct InPlace<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut CpuStorage, &Layout) -> candle_core::Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "modify"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        self.0.take().map_or(Ok(()), |function| function(storage, layout))
    }
}

/// Lets `function` change the values of a contiguous CPU tensor.
///
/// # Errors
/// It is not contiguous, not on the CPU or not of the type `T`.
pub(crate) fn modify<T: Real>(tensor: &Tensor, function: impl FnOnce(&mut [T])) -> Result<()> {
    let change = |storage: &mut CpuStorage, layout: &Layout| {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(refusal("a contiguous tensor is needed"));
        };
        let Some(values) = T::slice_mut(storage) else { return Err(refusal("a tensor of another type")) };
        function(&mut values[start..end]);
        Ok(())
    };
    Ok(tensor.inplace_op1(&InPlace(Cell::new(Some(change))))?)
}

/// Runs `$body` with `$T` as the type of the numbers in `$tensor`, which [`is_host`] has accepted.
macro_rules! with_real {
    ($tensor:expr, $T:ident => $body:expr) => {
        if $tensor.dtype() == candle_core::DType::F64 {
            type $T = f64;
            #[allow(unused_imports)]
            use candle_core::WithDType as _;
            $body
        } else {
            type $T = f32;
            #[allow(unused_imports)]
            use candle_core::WithDType as _;
            $body
        }
    };
}
pub(crate) use with_real;

/// Loops over rows, with all that they work on. The body must be marked `#[inline(always)]`, so that it is compiled
/// into the function of the instruction set; a closure would be compiled on its own, without the instructions.
pub(crate) use pulp::NullaryFnOnce as Loops;

/// Compiles `loops` once per instruction set and runs the best.
#[inline(always)]
pub(crate) fn vectorized<L: Loops>(loops: L) -> L::Output {
    pulp::Arch::new().dispatch(loops)
}

/// The largest number of a row that is not empty, in sixteen lanes.
#[inline(always)]
pub(super) fn largest<T: Real>(row: &[T]) -> T {
    let mut lanes = [row[0]; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    lanes.iter().chain(rest).fold(row[0], |largest, &x| largest.larger(x))
}
