//! What the machine is: the program's build, system, processor, instruction sets, memory, and how fast memory is read.

use moewe_engine::eval::machine::{KernelBench, ReadBench};
use moewe_engine::os::machine::{self, BUILD, HugePages};
use moewe_engine::os::memory;
use moewe_engine::quant::Format;
use moewe_engine::session::{MemoryLimit, Options};
use moewe_engine::simd::{Isa, knows_tiles};
use serde::Serialize;
use std::time::Duration;

/// What measuring takes: two buffers of 256 MiB.
const ROOM: u64 = 1 << 30;
/// The format in which most models of 4 bits hold most of their weights.
const FORMAT: &str = "Q4_K";
/// Time for each of the two measurements, their preparation aside.
const TIME: Duration = Duration::from_millis(350);

/// How the program was built.
#[derive(Debug, Default, Serialize)]
pub(super) struct Build {
    pub(super) target: &'static str,
    pub(super) profile: &'static str,
    pub(super) opt_level: &'static str,
    /// Processor features that the compiler took for granted.
    pub(super) features: Vec<&'static str>,
}

pub(super) fn build() -> Build {
    let features = BUILD.features.split(',').filter(|name| !name.is_empty()).collect();
    Build { target: BUILD.target, profile: BUILD.profile, opt_level: BUILD.opt_level, features }
}

impl Build {
    /// Whether the compiler was asked for speed.
    pub(super) fn is_optimized(&self) -> bool {
        matches!(self.opt_level, "2" | "3")
    }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct System {
    pub(super) name: Option<String>,
    pub(super) kernel: Option<String>,
}

pub(super) fn system() -> System {
    let system = machine::system();
    System { name: system.name, kernel: system.kernel }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Cpu {
    pub(super) name: Option<String>,
    pub(super) physical_cores: Option<usize>,
    pub(super) logical_cores: Option<usize>,
    /// Logical ones that are fast, where there are slow ones, too.
    pub(super) performance_cores: Option<usize>,
    pub(super) efficiency_cores: Option<usize>,
    /// Logical ones that this process may run on.
    pub(super) allowed_cores: Option<usize>,
    /// Processors' worth of time that a control group leaves it.
    pub(super) quota_cores: Option<f64>,
    /// What `--threads` is by default.
    pub(super) threads: usize,
}

pub(super) fn cpu() -> Cpu {
    let cpu = machine::cpu();
    let (performance_cores, efficiency_cores) = cpu.kinds.unzip();
    Cpu {
        name: cpu.name,
        physical_cores: cpu.physical,
        logical_cores: cpu.logical,
        performance_cores,
        efficiency_cores,
        allowed_cores: cpu.allowed,
        quota_cores: cpu.quota,
        threads: Options::default().hardware().0,
    }
}

/// What AMX's tiles are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tiles {
    /// The processor has none.
    #[default]
    Absent,
    /// It has, and the system does not let this process use them.
    Refused,
    Granted,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct InstructionSets {
    /// Slowest first.
    pub(super) available: Vec<&'static str>,
    pub(super) chosen: &'static str,
    pub(super) why: &'static str,
    pub(super) tiles: Tiles,
}

pub(super) fn instruction_sets() -> InstructionSets {
    let (available, chosen) = (Isa::available().map(Isa::name).collect(), Isa::detect());
    let tiles = match (knows_tiles(), chosen) {
        (false, _) => Tiles::Absent,
        (true, Isa::Amx) => Tiles::Granted,
        (true, _) => Tiles::Refused,
    };
    let why = match (chosen, tiles) {
        (Isa::Portable, _) => "no other kernels run on this processor",
        (_, Tiles::Refused) => "the fastest that the system allows: it grants no tiles, which AMX needs",
        _ => "the fastest here",
    };
    InstructionSets { available, chosen: chosen.name(), why, tiles }
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Memory {
    pub(super) total_bytes: Option<u64>,
    pub(super) available_bytes: Option<u64>,
    /// The tightest limit of this process' control groups.
    pub(super) limit_bytes: Option<u64>,
    /// The limit on addresses (`ulimit -v`).
    pub(super) address_limit_bytes: Option<u64>,
    /// What `--memory` is by default.
    pub(super) default_limit_bytes: Option<u64>,
    pub(super) swap_bytes: Option<u64>,
    pub(super) swap_used_bytes: Option<u64>,
    pub(super) huge_pages: Option<bool>,
}

pub(super) fn memory() -> Memory {
    let facts = machine::memory();
    let available = memory::available();
    let limit = facts.limit.filter(|&limit| facts.total.is_none_or(|total| limit < total));
    Memory {
        total_bytes: facts.total,
        available_bytes: available,
        limit_bytes: limit,
        address_limit_bytes: facts.addresses,
        default_limit_bytes: available.map(|free| MemoryLimit::default_bytes(free + memory::resident())),
        swap_bytes: facts.swap,
        swap_used_bytes: facts.swap_used,
        huge_pages: facts.huge_pages.map(|pages| pages == HugePages::Given),
    }
}

/// How fast all threads together read memory, and pass weights of a format as decoding does.
#[derive(Debug, Default, Serialize)]
pub(super) struct Bandwidth {
    pub(super) threads: usize,
    pub(super) format: &'static str,
    pub(super) read_bytes_per_second: Option<f64>,
    pub(super) kernel_bytes_per_second: Option<f64>,
    pub(super) why_not: Option<String>,
}

pub(super) fn bandwidth(free: Option<u64>) -> Bandwidth {
    let (threads, isa) = Options::default().hardware();
    let none = Bandwidth { threads, format: FORMAT, ..Bandwidth::default() };
    if free.is_some_and(|free| free < ROOM) {
        return Bandwidth { why_not: Some("less than 1 GiB of memory is free".to_owned()), ..none };
    }
    let measure = || {
        let reader = ReadBench::new(threads)?;
        let read = reader.bytes_per_second_within(TIME);
        let format = Format::by_name(FORMAT);
        let kernel = format.map(|format| KernelBench::new(format, isa, &reader)).transpose()?;
        Ok::<_, moewe_engine::Error>((read, kernel.map(|kernel| kernel.bytes_per_second_within(TIME))))
    };
    match measure() {
        Ok((read, kernel)) => {
            Bandwidth { read_bytes_per_second: Some(read), kernel_bytes_per_second: kernel, ..none }
        }
        Err(error) => Bandwidth { why_not: Some(error.to_string()), ..none },
    }
}
