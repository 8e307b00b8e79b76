//! Which instruction set the kernels use: detected once, overridable by name.
//!
//! Hand-made kernels stand in `kernels/`; `lanes.rs` and `dispatch.rs` carry what is written once
//! and compiled for every set.

mod dispatch;
mod lanes;

pub use dispatch::Work;
pub use lanes::{LANES, Lanes, ROUND, f16_to_f32};
#[cfg(target_arch = "aarch64")]
pub(crate) use lanes::{widen, widen_upper};

use crate::error::{Error, Result};

/// An instruction set with kernels of its own, those of a processor in rising order of speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, as the compiler's baseline allows: the slow twin of every other.
    Portable,
    /// NEON with products of bytes (`dotprod`): Armv8.2 and later, all of Apple's.
    NeonDot,
    /// The same with products of small matrices of bytes (`i8mm`): Armv8.6 and later.
    NeonI8mm,
    /// AVX2, FMA and F16C: laptops since 2013.
    Avx2,
    /// AVX2 with VNNI byte dot products: laptops since 2021.
    AvxVnni,
    /// AVX-512 with VNNI byte dot products.
    Avx512Vnni,
    /// The same with AMX's tiles of BF16 products: servers since 2023.
    Amx,
}

impl Isa {
    /// All of them, those of a processor slowest first.
    pub const ALL: [Isa; 7] =
        [Isa::Portable, Isa::NeonDot, Isa::NeonI8mm, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni, Isa::Amx];

    /// The name that `--isa` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::NeonDot => "neondot",
            Isa::NeonI8mm => "i8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = || has!("avx2") && has!("fma") && has!("f16c");
            match self {
                Isa::Portable => true,
                Isa::Avx2 => avx2(),
                Isa::AvxVnni => avx2() && has!("avxvnni"),
                Isa::Avx512Vnni => {
                    avx2()
                        && has!("avx512f")
                        && has!("avx512bw")
                        && has!("avx512vl")
                        && has!("avx512dq")
                        && has!("avx512vnni")
                }
                Isa::Amx => Isa::Avx512Vnni.is_available() && has_tiles(),
                Isa::NeonDot | Isa::NeonI8mm => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use crate::os::extensions;
            use std::arch::is_aarch64_feature_detected as has;
            match self {
                Isa::Portable => true,
                Isa::NeonDot => has!("dotprod"),
                Isa::NeonI8mm => has!("dotprod") && (has!("i8mm") || extensions::has_i8mm()),
                Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Isa::Portable
        }
    }

    /// Those that this machine can run, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The fastest of this machine. Apple's processors begin an instruction of `i8mm` half as often as one of
    /// `dotprod`, so nothing makes up for the order that it wants its operands in.
    pub fn detect() -> Isa {
        let pays = |isa: &Isa| *isa != Isa::NeonI8mm || cfg!(not(target_vendor = "apple"));
        Self::available().filter(pays).last().unwrap_or(Isa::Portable)
    }

    /// The set of that name.
    ///
    /// # Errors
    /// When the name is unknown or the machine lacks the instructions.
    pub fn parse(name: &str) -> Result<Isa> {
        let names = || Self::available().map(Isa::name).collect::<Vec<_>>().join(", ");
        let isa = Self::ALL.into_iter().find(|isa| isa.name() == name);
        match isa {
            Some(isa) if isa.is_available() => Ok(isa),
            Some(_) => Err(Error::request(format!("this machine has no {name}; it has {}", names()))),
            None => Err(Error::request(format!("no instruction set is named {name}; there are {}", names()))),
        }
    }
}

/// Whether the machine multiplies tiles of BF16, and the system lets this process do so: asked once.
#[cfg(target_arch = "x86_64")]
fn has_tiles() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| knows_tiles() && crate::os::tiles::are_allowed())
}

/// Whether the processor multiplies tiles of BF16, whatever the system allows.
#[cfg(target_arch = "x86_64")]
pub fn knows_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    features & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
}

/// Whether the processor multiplies tiles of BF16, whatever the system allows.
#[cfg(not(target_arch = "x86_64"))]
pub fn knows_tiles() -> bool {
    false
}

/// Processors whose kernels were found to be faster for something that slows others.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// AMD, family 19h.
    Zen4,
    /// AMD, family 1Ah.
    Zen5,
    /// All others.
    Other,
}

#[cfg(target_arch = "x86_64")]
impl Processor {
    /// This machine's; asked once.
    pub fn of_machine() -> Self {
        use std::arch::x86_64::__cpuid;
        static ANSWER: std::sync::OnceLock<Processor> = std::sync::OnceLock::new();
        *ANSWER.get_or_init(|| {
            let leaf = __cpuid(0);
            let maker = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
            // The family, where its four bits are not enough (which is so in all of AMD's since 2003).
            let family = 0xf + (__cpuid(1).eax >> 20 & 0xff);
            match family {
                0x19 if maker.as_flattened() == b"AuthenticAMD" => Self::Zen4,
                0x1a if maker.as_flattened() == b"AuthenticAMD" => Self::Zen5,
                _ => Self::Other,
            }
        })
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
