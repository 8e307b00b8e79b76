//! Work written once over [`Lanes`], compiled for every instruction set and chosen at run time.
//!
//! Hand-made kernels stand in `kernels/`.
#![allow(unsafe_code)]

use super::Isa;
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Portable};

/// A piece of work over [`Lanes`].
pub trait Work {
    /// What comes out.
    type Output;
    /// Does it. Has to be `#[inline(always)]`, like all that it calls in its loops: what is not inlined into
    /// [`Isa::run`] is compiled for the baseline only.
    fn run<L: Lanes>(self) -> Self::Output;
}

impl Isa {
    /// Runs `work` as compiled for this instruction set. Its results depend on it only through [`Lanes::multiply_add`].
    ///
    /// # Panics
    /// If the machine lacks the instructions.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        assert!(self.is_available(), "this machine has no {self}");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions, as asserted above.
            Isa::Avx2 | Isa::AvxVnni => unsafe { avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions, as asserted above.
            Isa::Avx512Vnni | Isa::Amx => unsafe { avx512(work) },
            // Every aarch64 machine has what these lanes need.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot | Isa::NeonI8mm => work.run::<Neon>(),
            _ => work.run::<Portable>(),
        }
    }

    /// Whether [`Isa::run_with_pairs`] has an instruction for [`Lanes::add_pairs`].
    pub fn has_pairs(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self >= Isa::Avx512Vnni
            && self.is_available()
            && std::arch::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// [`Isa::run`], with the instruction for [`Lanes::add_pairs`] where the machine has it.
    #[inline]
    pub fn run_with_pairs<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if self.has_pairs() {
            // SAFETY: the machine has the instructions, as asked.
            return unsafe { avx512_bf16(work) };
        }
        self.run(work)
    }
}

/// # Safety
/// Needs the instructions that are enabled.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<W: Work>(work: W) -> W::Output {
    work.run::<Avx2>()
}

/// # Safety
/// Needs the instructions that are enabled.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn avx512<W: Work>(work: W) -> W::Output {
    work.run::<Avx512<false>>()
}

/// # Safety
/// Needs the instructions that are enabled.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn avx512_bf16<W: Work>(work: W) -> W::Output {
    work.run::<Avx512<true>>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::F16;
    use crate::simd::LANES;

    /// Every operation of [`Lanes`], as bits.
    struct All([f32; LANES], [f32; LANES]);

    #[inline(always)]
    fn several<L: Lanes>(a: L, b: L) -> [L; 8] {
        let mut all = [a; 8];
        for i in 1..8 {
            all[i] = all[i - 1] * L::splat(0.7) + b;
        }
        all
    }

    impl Work for All {
        type Output = Vec<u32>;
        #[inline(always)]
        fn run<L: Lanes>(self) -> Vec<u32> {
            let (a, b) = (L::load(&self.0), L::load(&self.1));
            let results = [
                a + b,
                a - b,
                a * b,
                a / b,
                a.min(b),
                a.max(b),
                a.if_above(b, L::splat(1.0), b),
                a.nearest(),
                b.inverse(),
                L::from_fn(|lane| lane as f32),
                L::load_f16(bytemuck::cast_ref(&self.0.map(F16::from_f32))),
                a.pair(b),
                b.add_pairs(a.pair(b), b.pair(a * b)),
            ];
            let mut bits: Vec<u32> = results.iter().flat_map(|r| r.store()).map(f32::to_bits).collect();
            bits.extend(L::sums(several(a, b)).map(f32::to_bits));
            let rows = std::array::from_fn(|i| a * L::splat(i as f32) + b);
            bits.extend(L::turn(rows).iter().flat_map(|column| column.store()).map(f32::to_bits));
            bits.extend([a.sum().to_bits(), a.smallest().to_bits(), a.least() as u32]);
            bits.extend([a.is_below_any(b), a.min(b).is_below_any(b), a.is_below_any(a)].map(u32::from));
            bits
        }
    }

    #[test]
    fn every_isa_gives_the_same_bits() {
        for seed in 0..50 {
            let a = std::array::from_fn(|i| ((i * 37 + seed * 11) as f32).sin() * 9.0);
            let mut b: [f32; LANES] = std::array::from_fn(|i| ((i * 5 + seed) as f32).cos() * 3.0);
            b[seed % LANES] = a[seed % LANES];
            b[(seed + 3) % LANES] = 0.0;
            let expected = All(a, b).run::<Portable>();
            for isa in Isa::available() {
                assert_eq!(isa.run(All(a, b)), expected, "{isa}");
                assert_eq!(isa.run_with_pairs(All(a, b)), expected, "{isa} with pairs");
            }
        }
    }

    #[test]
    fn least_is_the_first_smallest() {
        let mut values = [2.0; LANES];
        (values[5], values[9]) = (-1.0, -1.0);
        assert_eq!(Portable::load(&values).least(), 5);
        assert_eq!(Portable::load(&values).smallest(), -1.0);
        assert_eq!(Portable::splat(2.5).nearest().store(), [2.0; LANES]);
        assert_eq!(Portable::splat(0.0).inverse().store(), [0.0; LANES]);
    }
}
