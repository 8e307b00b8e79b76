//! Compresses the kernels for cards: as text they would be a sixth of the program, which most people run without a card.
//! And hands on what cargo tells build scripts alone: target, profile and level of optimization.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{Result, Write};
use std::path::{Path, PathBuf};

/// What the library is told about its build, and what cargo calls it.
const TOLD: [(&str, &str); 4] = [
    ("MOEWE_TARGET", "TARGET"),
    ("MOEWE_PROFILE", "PROFILE"),
    ("MOEWE_OPT_LEVEL", "OPT_LEVEL"),
    ("MOEWE_TARGET_FEATURES", "CARGO_CFG_TARGET_FEATURE"),
];

fn main() -> Result<()> {
    for (name, variable) in TOLD {
        println!("cargo:rustc-env={name}={}", std::env::var(variable).unwrap_or_default());
    }
    let folder = Path::new("src/cuda/ptx");
    println!("cargo:rerun-if-changed={}", folder.display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "ptx") {
            let name = path.with_extension("ptx.z");
            let file = std::fs::File::create(out.join(name.file_name().unwrap_or_default()))?;
            let mut packed = ZlibEncoder::new(file, Compression::best());
            packed.write_all(&std::fs::read(&path)?)?;
            packed.finish()?;
        }
    }
    Ok(())
}
