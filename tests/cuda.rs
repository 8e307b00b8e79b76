//! The runtime for cards, over an emulated driver: the kernels that run on a card, compiled for the CPU, under the program
//! as it is shipped. Every golden model, every way of having too little memory, every format, every failure.
//!
//! Needs a C++ compiler (`CXX`, else g++); without one the tests say that they are skipped. With `MOEWE_CUDA_REAL` they
//! take the machine's own driver and card instead, as `tests/gpu.sh` does.

#![allow(clippy::print_stdout, reason = "the table of errors, and what is skipped")]

#[path = "support/bytes.rs"]
mod bytes;
#[path = "support/command.rs"]
mod command;
#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "nothing is rewritten here")]
mod fixtures;
#[path = "cuda/best.rs"]
mod best;
#[path = "cuda/carried.rs"]
mod carried;
#[path = "cuda/golden.rs"]
mod golden;
#[path = "cuda/long.rs"]
mod long;
#[path = "cuda/prompts.rs"]
mod prompts;
#[path = "cuda/serve.rs"]
mod serve;
#[path = "serve/serving.rs"]
#[allow(dead_code, reason = "not all of the client is wanted")]
mod serving;
#[path = "cuda/speeds.rs"]
mod speeds;

use best::bytes_of;
use command::{moewe, stderr};
use fixtures::fixture;
use golden::difference;
use moewe_engine::cuda::{Device, Kernels, LIBRARY_VARIABLE, MatrixAt, Rows};
use moewe_engine::eval::Weights;
use moewe_engine::gguf::Gguf;
use moewe_engine::model::{Missing, Observe, Routing, Row, Site, Wants};
use moewe_engine::quant::{FORMATS, Format};
use moewe_engine::session::{DeviceChoice, Engine, MemoryLimit, Options};
use moewe_engine::simd::Isa;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished};
use std::sync::LazyLock;
use std::time::Instant;

/// The emulated driver; `None` where there is no compiler.
static DRIVER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/build.sh");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        println!("SKIPPED: no C++ compiler ({compiler}), which the emulated driver is made with");
        return None;
    }
    let built = Command::new(script).arg(&folder).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(folder.join("libcuda.so.1"))
});

/// Whether the machine's own driver is tested, or whatever [`LIBRARY_VARIABLE`] names.
fn is_real() -> bool {
    std::env::var_os("MOEWE_CUDA_REAL").is_some()
}

/// The same for tests that want something of the emulated one; says so.
fn is_left_out() -> bool {
    if is_real() {
        println!("SKIPPED: wants something of the emulated driver, and the machine's own is tested");
    }
    is_real()
}

/// Lets a command find the driver; `None` where there is none.
fn with_driver(command: &mut Command) -> Option<&mut Command> {
    if is_real() { Some(command) } else { Some(command.env(LIBRARY_VARIABLE, DRIVER.as_ref()?)) }
}

/// The program with the driver and what else it is to find.
fn run(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Option<Finished> {
    let mut command = moewe(folder);
    with_driver(&mut command)?.args(arguments).envs(settings.iter().copied());
    Some(command.output().unwrap())
}

/// Of numbers' bits.
fn hash(numbers: &[f32]) -> u64 {
    numbers.iter().fold(0u64, |hash, number| hash.wrapping_mul(31) ^ u64::from(number.to_bits()))
}

/// Runs an ignored test of this file in a process that finds the driver; what it prints.
fn inside(test: &str, settings: &[(&str, &str)]) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    with_driver(command.args(["--ignored", "--exact", test, "--nocapture"]))?;
    // Quantizers that are not optimized take more than the usual stack.
    command.env("RUST_MIN_STACK", "16777216");
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{test} {settings:?}:\n{said}\n{}", stderr(&output));
    Some(said)
}

/// What the doctor tells of a card that is served, and of what is not.
#[test]
fn the_doctor_tells_of_cards() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = |settings: &[(&str, &str)]| {
        let output = run(folder.path(), &["doctor", "--json"], settings)?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        Some((report["gpu"].clone(), report["advice"].to_string()))
    };
    let Some((found, advice)) = gpu(&[]) else { return };
    let card = &found["cards"][0];
    assert!(card["is_served"] == true && card["memory_bytes"].as_u64() > Some(0), "{card}");
    assert!(found["why_not"].is_null() && found["cuda"].is_string(), "{found}");
    assert!(advice.contains("--device cuda"), "{advice}");
    if is_left_out() {
        return;
    }
    for (setting, cards, part) in [
        (("MOEWE_EMULATION_CAPABILITY", "7.5"), 1, "compute capability 8.0 or later"),
        (("MOEWE_EMULATION_DRIVER", "11040"), 0, "knows CUDA 11.4"),
        (("MOEWE_EMULATION_NO_DEVICE", "1"), 0, "CUDA_ERROR_NO_DEVICE"),
    ] {
        let Some((found, _)) = gpu(&[setting]) else { return };
        assert!(found["why_not"].as_str().is_some_and(|why| why.contains(part)), "{found}");
        assert_eq!(found["cards"].as_array().map(Vec::len), Some(cards), "{found}");
    }
}

/// Whatever fits, and in whatever order threads and streams run: the same bits.
#[test]
fn memory_and_order_change_no_bit() {
    let mut first = None;
    for seed in ["0", "1", "2", "3"] {
        let Some(said) = inside("budgets", &[("MOEWE_EMULATION_SEED", seed)]) else { return };
        let bits: Vec<_> = said.lines().filter(|line| line.starts_with("bits")).map(str::to_owned).collect();
        assert_eq!(bits.len(), 4, "{said}");
        assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "another order, other bits");
    }
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn budgets() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["mixtral", "glm4moe"] {
        let file = fixture(name, folder.path());
        for cache in ["f16", "q8_0"] {
            let all = all_logits(&file, cache, None);
            let expert = expert_bytes(&file);
            for slots in [100, 8, 4, 0] {
                // Four that belong to no layer come first.
                let bytes = if slots == 0 { 0 } else { (slots + 4) * expert };
                let some = all_logits(&file, cache, Some(MemoryLimit::Experts(bytes)));
                assert!(all == some, "{name}, cache {cache}: other bits with {slots} slots");
            }
            println!("bits {name} {cache} {:016x}", hash(&all));
        }
    }
}

/// Whoever computes experts that are not on the card: the same bits.
#[test]
fn the_processor_computes_missing_experts_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    inside("missing", &[("MOEWE_EMULATION_LOG", log.to_str().unwrap())]);
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn missing() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["Q8_0", "MXFP4"] {
        let options = moewe_convert::Options::new(Format::by_name(format).unwrap());
        let file = folder.path().join(format!("{format}.gguf"));
        moewe_convert::convert(&fixtures::golden().join("mixtral"), &file, &options, &()).unwrap();
        // What has been copied to the card of the size of an expert's matrix.
        let up = Gguf::open(&file).unwrap().tensor("blk.0.ffn_up_exps.weight").unwrap().clone();
        let bytes = up.format.row_bytes(up.shape[0] as usize) * up.shape[1] as usize;
        let copies = || {
            let log = std::env::var_os("MOEWE_EMULATION_LOG").map(std::fs::read_to_string);
            let log = log.map_or(String::new(), Result::unwrap);
            log.lines().filter(|line| line.starts_with(&format!("copy h2d {bytes} "))).count()
        };
        let read = |isa: Isa, vram, missing| {
            let device = DeviceChoice::Cuda(0);
            let options = Options { device, vram, missing, isa: Some(isa), ..fixtures::options("f32") };
            let engine = Engine::open(&file, Options { batch: 5, ..options }).unwrap();
            let mut session = engine.session().unwrap();
            let mut all = vec![];
            for some in fixtures::tokens(14, 5).chunks(3) {
                let keep = |_: usize, row: &[f32]| {
                    all.extend_from_slice(row);
                    Ok(())
                };
                session.extend_with_logits(some, keep).unwrap();
            }
            all
        };
        let sets = if format == "Q8_0" { usize::MAX } else { 1 };
        for isa in Isa::available().filter(|isa| *isa != Isa::Portable).take(sets) {
            println!("{format} {isa}");
            let whole = read(isa, None, Missing::default());
            // None of a layer's own, and a few. Dense matrices of that size are copied, too, as often each time.
            for room in [0, 500_000] {
                let mut least = None;
                for missing in [Missing::Computed, Missing::Copied, Missing::Measured] {
                    let before = copies();
                    let some = read(isa, Some(MemoryLimit::Experts(room)), missing);
                    assert!(some == whole, "{format} {isa}: other bits with {missing:?} and {room} bytes");
                    let made = copies() - before;
                    let is_more = made > *least.get_or_insert(made);
                    assert!(
                        is_real() || is_more == (missing != Missing::Computed),
                        "{missing:?} {room}: {made}"
                    );
                }
            }
        }
    }
}

/// Prompt in steps of five, then single tokens.
fn all_logits(file: &Path, cache: &str, vram: Option<MemoryLimit>) -> Vec<f32> {
    let device = DeviceChoice::Cuda(0);
    let options = Options { device, vram, batch: 5, context: Some(64), ..fixtures::options(cache) };
    let engine = Engine::open(file, options).unwrap();
    let mut session = engine.session().unwrap();
    let mut all = vec![];
    let tokens = fixtures::tokens(14, 5);
    let mut keep = |_: usize, row: &[f32]| {
        all.extend_from_slice(row);
        Ok(())
    };
    session.extend_with_logits(&tokens[..12], &mut keep).unwrap();
    for token in &tokens[12..] {
        session.extend_with_logits(&[*token], &mut keep).unwrap();
    }
    // Back to the middle and on again: what is computed again has the bits that it had.
    session.rewind(9);
    let mut again = vec![];
    let mut keep = |_: usize, row: &[f32]| {
        again.extend_from_slice(row);
        Ok(())
    };
    session.extend_with_logits(&tokens[9..10], &mut keep).unwrap();
    let width = again.len();
    assert!(all[9 * width..10 * width] == again, "other bits after going back");
    all
}

fn expert_bytes(file: &Path) -> u64 {
    let gguf = Gguf::open(file).unwrap();
    let of_layer = |part: &str| gguf.tensor(&format!("blk.1.ffn_{part}_exps.weight")).unwrap();
    ["gate", "up", "down"].iter().map(|part| of_layer(part).elements() * 4 / of_layer(part).shape[2]).sum()
}

/// The products of every format, as they lie in files and in panels, against those of the CPU: the same bits where a lane
/// of the CPU's panels adds up the same numbers in the same order.
#[test]
fn every_format_is_multiplied_as_on_the_cpu() {
    inside("formats", &[]);
}

/// Formats whose products on the CPU are those of this order; the others differ by rounding.
const SAME_BITS: &[&str] = &["Q4_0", "Q8_0", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"];

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn formats() {
    let (rows, cols, inputs) = (72, 1280, 6);
    let isa =
        [Isa::Avx512Vnni, Isa::Avx2].into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable);
    let mut random = 1u32;
    let mut number = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let x: Vec<f32> = (0..inputs * cols).map(|_| number()).collect();
    let weights: Vec<f32> = (0..rows * cols).map(|_| number()).collect();
    let mut failures = vec![];
    for format in asked_formats() {
        let mut bytes = vec![0u8; rows * format.row_bytes(cols)];
        (format.quantize.unwrap())(&weights, None, &mut bytes);
        let in_file = Weights::of_file(format, cols, bytes);
        let device = Device::open(0).unwrap();
        let start = Instant::now();
        let kernels = Kernels::load(device, &[format]).unwrap();
        println!("{format:8} loaded in {} ms", start.elapsed().as_millis());
        let packed = in_file.packed(isa);
        for weights in [in_file, packed] {
            let expected = weights.times(isa, &x);
            let is_panels = weights.is_panels();
            let found = on_card(&kernels, (format, rows, cols), &weights, &x);
            // So many that they go through tensor cores.
            let many = on_card(&kernels, (format, rows, cols), &weights, &x.repeat(8));
            if many != found.repeat(8) {
                failures.push(format!("{format}, in panels: {is_panels}: other bits for many rows"));
            }
            let error = difference(&found, &expected);
            // Rows after the last whole panel are added up in another order on the CPU.
            let whole = |all: &[f32]| -> Vec<f32> {
                all.chunks_exact(rows).flat_map(|row| row[..rows / 16 * 16].to_vec()).collect()
            };
            let is_same = whole(&found) == whole(&expected);
            let lies = if is_panels { "panels" } else { "rows" };
            println!("{format:8} {lies} {error:.1e}{}", if is_same { ", the same bits" } else { "" });
            if error.is_nan() || error >= 1e-5 {
                failures.push(format!("{format} in {lies}: {error:.1e} from the CPU"));
            } else if is_panels && SAME_BITS.contains(&format.name) && !is_same {
                failures.push(format!("{format}: other bits than the CPU's panels"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// All formats, or the one that `MOEWE_TEST_FORMAT` names.
fn asked_formats() -> impl Iterator<Item = &'static Format> {
    let asked = std::env::var("MOEWE_TEST_FORMAT").ok();
    FORMATS.iter().filter(move |format| asked.as_deref().is_none_or(|asked| asked == format.name))
}

fn on_card(
    kernels: &Kernels,
    (format, rows, cols): (&'static Format, usize, usize),
    weights: &Weights,
    x: &[f32],
) -> Vec<f32> {
    let (device, inputs) = (kernels.device(), x.len() / cols);
    let is_panels = weights.is_panels();
    let weights = device.upload(weights.bytes()).unwrap();
    let (mut input, mut out) = (Rows::new(0), Rows::new(0));
    kernels.resize(&mut input, inputs, cols);
    kernels.resize(&mut out, inputs, rows);
    device.copy_now(input.place(), &bytes_of(x)).unwrap();
    let at = MatrixAt { format, rows, cols, is_panels, bytes: weights.address() };
    kernels.multiply(at, 0, &mut input, &mut out, 0);
    kernels.take_failure().unwrap();
    out.fetch(device).unwrap().to_vec()
}

/// What observers see (calibration, importance, routing) is what they see on the CPU.
#[test]
fn observers_see_the_same() {
    inside("observed", &[]);
}

/// Sums of squares of what every matrix reads, and all choices of experts.
#[derive(Default)]
struct Seen {
    inputs: BTreeMap<(String, Option<u32>), (f64, usize)>,
    choices: Vec<u32>,
    states: usize,
}

impl Observe for Seen {
    fn matmul_input(&mut self, site: Site<'_>, inputs: &[f32], width: usize) {
        let entry = self.inputs.entry((site.tensor.to_owned(), site.expert)).or_default();
        entry.0 += inputs.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        entry.1 += inputs.len() / width;
    }

    fn routed(&mut self, _: usize, routing: &Routing) {
        let rows = (0..routing.rows()).flat_map(|row| routing.choices(row));
        self.choices.extend(rows.map(|choice| choice.index));
    }

    fn hidden(&mut self, _: usize, rows: &[f32], width: usize) {
        self.states += rows.len() / width;
    }
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn observed() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["qwen2moe", "deepseek3", "gpt-oss"] {
        let file = fixture(name, folder.path());
        // With all experts on the card, and with none but those that pass.
        let cards = [None, Some(MemoryLimit::Experts(0))].map(|vram| (DeviceChoice::Cuda(0), vram));
        let [on_cpu, others @ ..] = [(DeviceChoice::Cpu, None), cards[0], cards[1]].map(|(device, vram)| {
            let options = Options { device, vram, context: Some(64), ..fixtures::options("f32") };
            let engine = Engine::open(&file, options).unwrap();
            let mut seen = Seen::default();
            let row = |(position, token)| Row { sequence: 0, position, token, wants: Wants::Logits };
            let rows: Vec<Row> = fixtures::tokens(7, 2).into_iter().enumerate().map(row).collect();
            engine.batch(1).unwrap().observed_step(&rows, &mut seen).unwrap();
            seen
        });
        for other in others {
            assert_eq!((other.states, &other.choices), (on_cpu.states, &on_cpu.choices), "{name}");
            assert!(other.inputs.keys().eq(on_cpu.inputs.keys()), "{name}: other matrices");
            for ((site, found), expected) in other.inputs.iter().zip(on_cpu.inputs.values()) {
                let is_near = (found.0 - expected.0).abs() <= 1e-4 * expected.0;
                assert!(found.1 == expected.1 && is_near, "{name}: {site:?} {found:?} {expected:?}");
            }
        }
    }
}

/// What has to be said where there is no card to be used, and what is done then.
#[test]
fn failures_are_told_in_a_line() {
    if is_left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = fixture("mixtral", folder.path());
    let arguments = |device: &'static str| {
        [
            "logits",
            file.to_str().unwrap(),
            "-o",
            "out.safetensors",
            "--force",
            "--tokens",
            "3,1,4",
            "--device",
            device,
        ]
    };
    for (settings, expected) in [
        (("MOEWE_EMULATION_NO_DEVICE", "1"), "CUDA_ERROR_NO_DEVICE"),
        (("MOEWE_EMULATION_DRIVER", "11040"), "knows CUDA 11.4, Möwe needs 11.8"),
        (("MOEWE_EMULATION_CAPABILITY", "7.5"), "compute capability 7.5, below 8.0"),
        (("MOEWE_EMULATION_MEMORY", "70000000"), "the card has room for"),
        ((LIBRARY_VARIABLE, "/nonexistent/libcuda.so.1"), "no NVIDIA driver found"),
        (("MOEWE_EMULATION_FAIL", "cuModuleLoadDataEx:2"), "cuModuleLoadDataEx"),
        (("MOEWE_EMULATION_FAIL", "cuMemAlloc_v2:3:2"), "--vram"),
    ] {
        let Some(output) = run(folder.path(), &arguments("cuda"), &[settings]) else { return };
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(expected), "{settings:?}: {said}");
        assert!(said.contains("--device cpu") && said.lines().count() == 1, "{settings:?}: {said}");
        let output = run(folder.path(), &arguments("auto"), &[settings]).unwrap();
        let said = stderr(&output);
        assert!(output.status.success() && said.contains("computing on the CPU"), "{settings:?}: {said}");
        assert!(said.contains(expected), "{settings:?}: {said}");
    }
    // Later than at load: the answer ends, and says where.
    let failing = [("MOEWE_EMULATION_FAIL", "cuLaunchKernel:17")];
    let output = run(folder.path(), &arguments("cuda"), &failing).unwrap();
    assert!(
        !output.status.success() && stderr(&output).contains("CUDA_ERROR_LAUNCH_FAILED"),
        "{}",
        stderr(&output)
    );
    let output = run(folder.path(), &arguments("cuda:3"), &[]).unwrap();
    assert!(
        !output.status.success() && stderr(&output).contains("there is no card 3"),
        "{}",
        stderr(&output)
    );
}

/// Where all experts fit, a token is one graph, and the program looks at nothing but its best tokens.
#[test]
fn a_token_is_one_graph_and_one_wait() {
    if is_left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let settings = [("MOEWE_EMULATION_LOG", log.to_str().unwrap())];
    let mut counts = vec![];
    for count in ["5", "6"] {
        let _ = std::fs::remove_file(&log);
        let flags = ["--temp", "0", "-q", "--raw", "--device", "cuda", "--context", "64", "-n", count];
        let arguments = [&["run", "-p", "Die Möwe"], &flags[..]].concat();
        let Some(output) = run(folder.path(), &arguments, &settings) else { return };
        assert!(output.status.success(), "{}", stderr(&output));
        let said = std::fs::read_to_string(&log).unwrap();
        let lines = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
        counts.push(["wait", "copy d2h 976", "copy d2h", "launch", "graph launch", "alloc"].map(lines));
        if let Some(line) = said.lines().rfind(|line| line.starts_with("graph launch")) {
            println!("{line}");
        }
    }
    let token: Vec<usize> = counts[1].iter().zip(counts[0]).map(|(more, less)| more - less).collect();
    assert_eq!(
        token,
        [1, 1, 1, 0, 1, 0],
        "waits, copies of 976 bytes back and all, launches, graphs, allocations"
    );
}
