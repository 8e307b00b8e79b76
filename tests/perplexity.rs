//! What each level of quantization costs on the model that ships, held to bounds: the guard of every quantizer, of the
//! recipes and of the kernels at once.
//!
//! The bounds are what was measured when they were set, plus ten percent. They change in a commit of their own, with
//! the table before and after in its message.

use moewe_convert::recipe::limit_of;
use moewe_convert::{Options, Recipe, Text, convert};
use moewe_engine::dialogue::Reader;
use moewe_engine::eval::{Comparison, Importance, chunks_of, compare};
use moewe_engine::generate::Answer;
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Options as EngineOptions, cache_format};
use moewe_engine::simd::Isa;
use std::path::{Path, PathBuf};

/// Mean KL divergence from BF16 in nats, and perplexity over that of BF16, of levels 2 to 8.
const BOUNDS: [(u32, f64, f64); 7] = [
    (2, 0.063_6, 1.047_5),
    (3, 0.022_2, 1.017_0),
    (4, 0.005_96, 1.010_2),
    (5, 0.001_91, 1.002_3),
    (6, 0.000_869, 1.001_9),
    (7, 0.000_582, 1.001_6),
    (8, 0.000_360, 1.000_5),
];

/// Neighbouring levels may change places by so much of their divergence and of their perplexity: below it the numbers
/// are noise of the text.
const TOLERANCE: (f64, f64) = (0.05, 0.005);

const CONTEXT: usize = 256;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn engine(path: &Path) -> Engine {
    // With an F32 cache attention has the same precision on every CPU. AMX rounds prompts' products to BF16, which is
    // as much as level 8 differs.
    let cache = cache_format("f32").unwrap();
    let isa = Isa::available().filter(|isa| *isa != Isa::Amx).last();
    let options = EngineOptions { context: Some(CONTEXT), cache, isa, ..EngineOptions::default() };
    Engine::open(path, options).unwrap()
}

/// The model in BF16 and at every level, in `folder`.
fn files(folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let base = folder.join("bf16.gguf");
    let bf16 = Options::with(Recipe::by_name("BF16").unwrap());
    convert(&root("models/moewe-mini"), &base, &bf16, &()).unwrap();
    let level = |&(level, ..): &(u32, f64, f64)| {
        let path = folder.join(format!("{level}.gguf"));
        let recipe = Recipe::Bits(limit_of(level).unwrap());
        let report = convert(&base, &path, &Options::with(recipe), &()).unwrap();
        assert!(report.bits_per_weight <= limit_of(level).unwrap(), "{level}: {}", report.bits_per_weight);
        path
    };
    let levels = BOUNDS.iter().map(level).collect();
    (base, levels)
}

fn greedy(engine: &Engine) -> Vec<u32> {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, engine.config().vocab_size).unwrap();
    let mut session = engine.session().unwrap();
    let special = moewe_engine::tokenizer::Special::Plain;
    let prompt = engine.tokenizer().unwrap().encode("Es war einmal", special).unwrap();
    let mut generation =
        Answer::start(&mut session, &mut sampler, &prompt, Some(32), Reader::plain()).unwrap();
    while generation.next_pieces().unwrap().is_some() {}
    generation.tokens().to_vec()
}

#[test]
fn levels_stay_within_their_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let (base, levels) = files(folder.path());
    let (base, levels): (Engine, Vec<Engine>) =
        (engine(&base), levels.iter().map(|path| engine(path)).collect());
    let text = std::fs::read_to_string(root("tests/golden/text/de.txt")).unwrap();
    let measured = compare(&base, &levels.iter().collect::<Vec<_>>(), &text, CONTEXT, |_, _| true).unwrap();
    let (base_figures, figures) = (&measured[0], &measured[1..]);
    let ratio = |figures: &Comparison| figures.perplexity / base_figures.perplexity;
    let table: Vec<String> = BOUNDS
        .iter()
        .zip(figures)
        .map(|((level, kl, ppl), own)| {
            format!("{level}: {:.6} of {kl}, {:.5} of {ppl}", own.kl_mean, ratio(own))
        })
        .collect();
    for (&(level, kl, perplexity), own) in BOUNDS.iter().zip(figures) {
        assert!(own.kl_mean <= kl && ratio(own) <= perplexity, "level {level}:\n{}", table.join("\n"));
        assert!(own.kl_mean > kl / 1.3, "level {level} got better: lower its bound\n{}", table.join("\n"));
    }
    for pair in figures.windows(2) {
        assert!(
            pair[0].kl_mean > pair[1].kl_mean,
            "divergence does not fall with bits:\n{}",
            table.join("\n")
        );
        assert!(ratio(&pair[0]) > ratio(&pair[1]) - TOLERANCE.1, "perplexity:\n{}", table.join("\n"));
    }
    let expected = greedy(&base);
    for (&(level, ..), engine) in BOUNDS.iter().zip(&levels).filter(|((level, ..), _)| matches!(level, 6 | 8))
    {
        assert_eq!(greedy(engine), expected, "greedy text at {level} bits");
    }
}

/// Making up for errors must pay, even with as little text as this; importance alone must not hurt.
#[test]
fn calibration_lowers_the_divergence() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("bf16.gguf");
    let options = |name: &str| Options::with(Recipe::by_name(name).unwrap());
    convert(&root("models/moewe-mini"), &base, &options("BF16"), &()).unwrap();
    let text = |name: &str| std::fs::read_to_string(root("tests/golden/text").join(name)).unwrap();
    let (seen, unseen) = (text("de-seen.txt"), text("de.txt"));
    let base_engine = engine(&base);
    let chunks = chunks_of(&base_engine, &seen, CONTEXT).unwrap();
    let importance = Importance::measure(&base_engine, &chunks, &mut |_, _| true).unwrap();
    let calibrate = Text { text: seen, context: CONTEXT / 4 };
    let two_bits = Options::with(Recipe::Bits(limit_of(2).unwrap()));
    let weighted = Options { importance: Some(importance.into()), ..two_bits.clone() };
    let calibrated = Options { calibrate: Some(calibrate), ..two_bits.clone() };
    let written =
        [("plain", two_bits), ("importance", weighted), ("calibrated", calibrated)].map(|(name, options)| {
            let path = folder.path().join(name).with_extension("gguf");
            let report = convert(&base, &path, &options, &()).unwrap();
            assert!(report.fallbacks.is_empty(), "{:?}", report.fallbacks);
            engine(&path)
        });
    let figures = compare(&base_engine, &written.each_ref(), &unseen, CONTEXT, |_, _| true).unwrap();
    let [plain, weighted, calibrated] = [1, 2, 3].map(|i| figures[i].kl_mean);
    let table = format!("{plain:.5}, with importance {weighted:.5}, calibrated {calibrated:.5}");
    assert!(weighted < 1.02 * plain && calibrated < 0.9 * plain, "{table}");
}
