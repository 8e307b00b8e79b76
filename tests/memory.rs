//! Models larger than their memory: the same bits whatever fits, errors instead of a wrong answer.

#[path = "support/command.rs"]
mod command;
#[path = "support/fixtures.rs"]
mod fixtures;
#[cfg(unix)]
mod support;

use fixtures::{few_tokens as tokens, fixture, options, rewrite};
use moewe_engine::Error;
use moewe_engine::gguf::Gguf;
use moewe_engine::model::{Model, ffn};
use moewe_engine::session::{Engine, Measuring, MemoryLimit, Options, Session};
use moewe_engine::simd::Isa;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Every way of having experts: with and without gates, with biases, joined, beside dense layers, shared, dropped, in
/// groups.
const EXPERTS: &[&str] = &[
    "mixtral",
    "qwen3moe-mixed",
    "qwen2moe",
    "olmoe",
    "gpt-oss",
    "granitemoe",
    "deepseek2",
    "deepseek3",
    "deepseek4",
    "kimi-k2-int4",
    "glm-dsa",
    "glm4moe",
    "minimax-m2",
    "bailingmoe2",
    "qwen35moe",
    "gemma4",
    "nemotron-h-moe",
    "german-moe-bias",
    "tachyon-shared1",
    "moe-124m-top2",
];

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/moewe-mini/moewe-mini.gguf")
}

fn open(file: &Path, experts: u64, threads: usize) -> Engine {
    open_ahead(file, experts, threads, 0)
}

/// A copy of a model that has its experts packed beside it.
fn packed(file: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("packed").join(file.file_name().unwrap());
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::copy(file, &copy).unwrap();
    let gguf = Gguf::open(&copy).unwrap();
    let model = Model::bind(&gguf).unwrap();
    model.weights.experts.pack(&gguf, Isa::detect(), |_, _| true).unwrap();
    model.weights.experts.verify(&gguf, Isa::detect(), |_, _| true).unwrap();
    copy
}

fn open_ahead(file: &Path, experts: u64, threads: usize, look_ahead: usize) -> Engine {
    let options = Options {
        look_ahead,
        memory: Some(MemoryLimit::Experts(experts)),
        threads: Some(threads),
        context: Some(100),
        ..options("f16")
    };
    Engine::open(file, options).unwrap()
}

/// A prompt at once, then token by token: logits of all.
fn answer(session: &mut Session<'_>) -> Vec<Vec<f32>> {
    let mut all = vec![];
    session.rewind(0);
    let (prompt, rest) = (tokens(40, 8), tokens(12, 9));
    let mut keep = |_: usize, row: &[f32]| {
        all.push(row.to_vec());
        Ok(())
    };
    session.extend_with_logits(&prompt, &mut keep).unwrap();
    for token in rest {
        session.extend(&[token]).unwrap();
        all.push(session.logits().to_vec());
    }
    all
}

#[test]
fn any_budget_computes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let files = EXPERTS.iter().map(|name| fixture(name, folder.path())).chain([mini()]);
    let mut failures = vec![];
    for file in files {
        let whole = open(&file, u64::MAX, 1);
        assert!(whole.memory().experts.holds_all());
        let all = whole.memory().experts.bytes();
        let expected = answer(&mut whole.session().unwrap());
        let packed = packed(&file, folder.path());
        for (part, budget) in [("nothing", 0), ("a fifth", all / 5), ("two thirds", all / 3 * 2)] {
            for (file, threads) in [(&file, 1), (&file, 3), (&packed, 2)] {
                let engine = open(file, budget, threads);
                assert_eq!(engine.has_packed_experts(), file == &packed);
                let mut session = engine.session().unwrap();
                let (cold, warm) = (answer(&mut session), answer(&mut session));
                for (state, found) in [("cold", cold), ("warm", warm)] {
                    if found != expected {
                        failures.push(format!("{}: {part}, {threads} threads, {state}", file.display()));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "other bits than with all experts in memory:\n{}", failures.join("\n"));
}

/// Neither the disk nor where its bytes come from may change a bit.
#[test]
fn a_slow_disk_computes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = open(&mini(), u64::MAX, 1);
    let expected = answer(&mut whole.session().unwrap());
    let packed = packed(&mini(), folder.path());
    for file in [&mini(), &packed] {
        for (direct_reads, disk_rate) in [(false, Some(50e6)), (true, Some(50e6)), (true, None)] {
            let measuring = Measuring { disk_rate, direct_reads, ..Measuring::default() };
            let memory = Some(MemoryLimit::Experts(whole.memory().experts.bytes() / 2));
            let options = Options { measuring, memory, look_ahead: 1, context: Some(100), ..options("f16") };
            let engine = Engine::open(file, options).unwrap();
            let mut session = engine.session().unwrap();
            assert!(answer(&mut session) == expected, "{}: {disk_rate:?}", file.display());
            let counted = engine.expert_statistics().unwrap();
            let read = counted.bytes_read as f64 / disk_rate.unwrap_or(f64::INFINITY);
            assert!(counted.disk_busy.as_secs_f64() >= 0.99 * read, "{counted:?}");
            assert!(counted.hidden <= counted.disk_busy && counted.depth() >= 1.0, "{counted:?}");
        }
    }
}

/// Guesses come true and do not, are taken back and arrive late: none of it may change a bit, or a slot go missing.
#[test]
fn looking_ahead_computes_the_same_bits_in_the_same_slots() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = EXPERTS.iter().map(|name| fixture(name, folder.path())).chain([mini()]).collect();
    // Where others have the machine, every guess may be taken back before a thread reads it.
    let start = Instant::now();
    loop {
        let (read, read_ahead) = looked_ahead(&files);
        if read_ahead > 2 * read {
            break;
        }
        let is_patient = start.elapsed() < Duration::from_secs(120);
        assert!(is_patient, "no guess was read: {read_ahead} bytes, {read} without");
    }
}

/// Answers of all files with and without guesses; bytes that were read without any, and with one and with two.
fn looked_ahead(files: &[PathBuf]) -> (u64, u64) {
    let (mut read, mut read_ahead) = (0, 0);
    for file in files {
        let whole = open(file, u64::MAX, 1);
        let (all, expected) = (whole.memory().experts.bytes(), answer(&mut whole.session().unwrap()));
        for budget in [0, all / 3 * 2] {
            for guesses in [0, 1, 2] {
                let engine = open_ahead(file, budget, 2, guesses);
                let mut session = engine.session().unwrap();
                for _ in 0..2 {
                    assert!(answer(&mut session) == expected, "{}: {guesses} guesses", file.display());
                }
                let counted = engine.expert_statistics().unwrap();
                for layer in &counted.layers {
                    assert!(layer.resident <= layer.slots, "{}: {layer:?}", file.display());
                }
                *(if guesses == 0 { &mut read } else { &mut read_ahead }) += counted.bytes_read;
            }
        }
    }
    (read, read_ahead)
}

#[test]
fn slots_keep_to_their_budget_and_what_is_counted_adds_up() {
    let all = open(&mini(), u64::MAX, 2).memory().experts.clone();
    for share in [0, 3, 6, 10] {
        let budget = all.bytes() * share / 10;
        let engine = open(&mini(), budget, 2);
        let mut session = engine.session().unwrap();
        (0..2).for_each(|_| _ = answer(&mut session));
        let plan = &engine.memory().experts;
        let counted = engine.expert_statistics().unwrap();
        let resident = counted.resident();
        assert!(resident <= plan.slots() && (plan.bytes() <= budget || share == 0), "{plan:?}");
        let rows: u64 = counted.layers.iter().flat_map(|layer| &layer.uses).sum();
        let routed = engine.config().layers.iter().map(|layer| match &layer.ffn {
            Some(ffn::Shape::Experts(experts)) => experts.expert_used_count as u64,
            Some(ffn::Shape::Dense(_)) | None => 0,
        });
        assert_eq!(rows, 2 * 52 * routed.sum::<u64>());
        let missed: u64 = counted.layers.iter().map(|layer| layer.misses * layer.expert_bytes).sum();
        assert_eq!(counted.bytes_read, missed);
        match share {
            0 => assert_eq!((counted.hits(), resident), (0, 0)),
            10 => assert_eq!(counted.misses() as usize, resident, "each expert is read once"),
            _ => assert!(counted.hits() > 0 && counted.misses() > resident as u64, "{counted:?}"),
        }
    }
}

#[test]
fn a_failed_read_ends_the_answer_and_the_program_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experts-last.gguf");
    // Dense weights are read through the mapping, so only the experts behind them may vanish.
    let is_expert = |name: &str| name.contains("_exps");
    let source = fixture("mixtral", folder.path());
    rewrite(&source, &file, |name| is_expert(name) as usize, |tensor| vec![tensor]);
    let bytes = std::fs::read(&file).unwrap();
    let gguf = Gguf::open(&file).unwrap();
    let dense: u64 = gguf.tensors().iter().filter(|t| !is_expert(&t.name)).map(|t| t.byte_len()).sum();
    let set_len = |len: u64| std::fs::File::options().write(true).open(&file).unwrap().set_len(len).unwrap();
    for budget in [0, u64::MAX] {
        let engine = open(&file, budget, 2);
        let mut session = engine.session().unwrap();
        set_len(bytes.len() as u64 - 5000);
        let error = session.extend(&tokens(40, 8)).unwrap_err();
        assert!(matches!(error, Error::Expert { .. }), "{error}");
        for part in ["expert ", "of layer 1", "experts-last.gguf", "check the disk", "shorter"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(session.tokens().is_empty() && dense < bytes.len() as u64 - 5000);
        std::fs::write(&file, &bytes).unwrap();
        let unharmed = open(&file, u64::MAX, 2);
        let mut expected = unharmed.session().unwrap();
        expected.extend(&tokens(40, 8)).unwrap();
        session.extend(&tokens(40, 8)).unwrap();
        assert!(session.logits() == expected.logits(), "other bits after a failed read");
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_shrinks_under_the_program_ends_it_with_one_line() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("shrinks.gguf");
    support::Tiny::default().write(&model);
    let mut chat = command::moewe(folder.path());
    chat.arg("chat").arg(&model).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = chat.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("memory:")), "the model is loaded");
    std::fs::File::options().write(true).open(&model).unwrap().set_len(4096).unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(moewe_engine::os::fault::STATUS), "{rest:?}");
    assert!(rest.len() == 1 && rest[0].contains("shrinks.gguf: became shorter"), "{rest:?}");
}
