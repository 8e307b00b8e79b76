//! Every format of the table against the golden bytes in `tests/golden/quant`, and against its own promises.

use super::*;
use proptest::prelude::*;
use std::path::PathBuf;

/// Every instruction set of this machine, each named as it comes: what a run has proved depends on them.
#[expect(clippy::print_stdout, reason = "for `--nocapture`, and beside a failure")]
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::available().inspect(|isa| println!("on {isa}"))
}

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/quant").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The first place where two rows differ in a bit; NaN equals NaN.
fn difference(ours: &[f32], theirs: &[f32]) -> Option<String> {
    assert_eq!(ours.len(), theirs.len());
    let mut pairs = ours.iter().zip(theirs).enumerate();
    let (i, (a, b)) = pairs.find(|(_, (a, b))| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()))?;
    Some(format!("weight {i}: {a:e} ({:#010x}), expected {b:e} ({:#010x})", a.to_bits(), b.to_bits()))
}

fn dequantized(format: &Format, bytes: &[u8]) -> Vec<f32> {
    let mut weights = vec![f32::NAN; bytes.len() / format.block_bytes * format.block_len];
    (format.dequantize)(bytes, &mut weights);
    weights
}

fn quantized(format: &Format, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.bytes_for(weights.len() as u64).unwrap() as usize];
    format.quantize.unwrap()(weights, None, &mut bytes);
    bytes
}

fn writable() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().filter(|format| format.quantize.is_some())
}

#[test]
fn dequantization_equals_the_reference() {
    let mut failures = Vec::new();
    for format in FORMATS {
        let blocks = golden(&format!("{format}.blocks"));
        assert!(blocks.len() >= 8 * format.block_bytes && blocks.len().is_multiple_of(format.block_bytes));
        let expected = floats(&golden(&format!("{format}.f32")));
        failures
            .extend(difference(&dequantized(format, &blocks), &expected).map(|d| format!("{format}: {d}")));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The formats whose reference rounding is exact; the others search for scales and are judged by their error.
#[test]
fn quantization_equals_the_reference() {
    let weights = floats(&golden("weights.f32"));
    let mut failures = Vec::new();
    for name in ["F32", "F16", "BF16", "Q4_0", "Q8_0"] {
        let format = Format::by_name(name).unwrap();
        let (ours, theirs) = (quantized(format, &weights), golden(&format!("{name}.quantized")));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let mut blocks = ours.chunks(format.block_bytes).zip(theirs.chunks(format.block_bytes)).enumerate();
        if let Some((i, (ours, theirs))) = blocks.find(|(_, (ours, theirs))| ours != theirs) {
            failures.push(format!("{name}: block {i} is {ours:02x?}, expected {theirs:02x?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn the_table_is_consistent() {
    for (i, format) in FORMATS.iter().enumerate() {
        assert_eq!(Format::by_id(format.id), Some(format));
        assert_eq!(Format::by_name(&format.name.to_lowercase()), Some(format));
        assert_eq!(format.kind == Kind::Float, format.block_len == 1, "{format}");
        let twins = FORMATS[..i].iter().filter(|other| other.id == format.id || other.name == format.name);
        assert_eq!(twins.count(), 0, "{format}");
    }
    assert_eq!(Format::by_name("Q9_Z"), None);
    assert_eq!(Format::by_id(4), None);
    assert_eq!((Format::by_id(26), Format::by_name("I32")), (Some(&INDICES), None));
    let (numbers, mut bytes, mut back) = ([0.0, 255.0, -1.0, 16_777_215.0], [0; 16], [9.0; 4]);
    (INDICES.quantize.unwrap())(&numbers, None, &mut bytes);
    assert_eq!(bytes[4..8], [255, 0, 0, 0]);
    (INDICES.dequantize)(&bytes, &mut back);
    assert_eq!(back, numbers);
}

#[test]
fn bytes_for_refuses_parts_of_blocks_and_overflow() {
    let format = Format::by_name("Q4_K").unwrap();
    assert_eq!(format.bytes_for(512), Some(288));
    assert_eq!(format.bytes_for(0), Some(0));
    assert_eq!(format.bytes_for(255), None);
    assert_eq!(Format::by_name("F32").unwrap().bytes_for(u64::MAX), None);
}

/// Unpacks into buffers full of `fill` and computes the weights the way the kernels do.
struct Unpack<'a> {
    bytes: &'a [u8],
    fill: i8,
}

impl Visit for Unpack<'_> {
    type Output = Vec<f32>;
    fn blocks<B: Block>(self) -> Vec<f32> {
        let groups = B::LEN / B::GROUP;
        let mut weights = Vec::new();
        for block in self.bytes.chunks_exact(size_of::<B>()) {
            let mut codes = vec![self.fill; B::LEN];
            let (mut scales, mut mins) = (vec![f32::from(self.fill); groups], vec![0f32; groups]);
            bytemuck::pod_read_unaligned::<B>(block).unpack::<Portable>(&mut codes, &mut scales, &mut mins);
            assert!(B::HAS_MIN || mins.iter().all(|min| min.to_bits() == 0), "{} writes mins", B::NAME);
            let scaled = |i: usize| codes[i] as f32 * scales[i / B::GROUP];
            weights.extend(
                (0..B::LEN).map(|i| if B::HAS_MIN { scaled(i) - mins[i / B::GROUP] } else { scaled(i) }),
            );
        }
        weights
    }
    fn float<F: Float>(self) -> Vec<f32> {
        self.bytes
            .chunks_exact(size_of::<F>())
            .map(|b| bytemuck::pod_read_unaligned::<F>(b).to_f32())
            .collect()
    }
}

/// `unpack` fits buffers of exactly the documented sizes and leaves nothing of what was in them.
#[test]
fn unpack_writes_everything_and_means_the_same() {
    for format in FORMATS {
        let bytes = golden(&format!("{format}.blocks"));
        let expected = dequantized(format, &bytes);
        for fill in [0, 77, -128] {
            let unpacked = visit(format, Unpack { bytes: &bytes, fill });
            assert_eq!(difference(&unpacked, &expected), None, "{format}");
        }
    }
}

/// The largest error of a weight in units of the largest magnitude of its block: about the distance between codes,
/// since searched scales cut off the extremes, and some room for rounding the scale.
fn error_bound(format: &Format) -> f32 {
    match format.name {
        "F32" => 0.0,
        "F16" => 0.0005,
        "BF16" => 0.004,
        "Q8_0" => 0.5 / 127.0 + 0.001,
        "Q6_K" => 1.0 / 24.0,
        "Q5_0" | "Q5_1" | "Q5_K" => 1.0 / 12.0,
        "Q4_0" | "Q4_1" | "Q4_K" => 1.0 / 6.0,
        "IQ4_NL" | "IQ4_XS" | "MXFP4" => 1.0 / 4.0,
        "IQ3_S" => 3.0 / 5.0,
        "IQ2_S" | "TQ1_0" | "TQ2_0" => 1.0,
        // One of 8 weights may get the wrong sign.
        "IQ2_XXS" | "IQ2_XS" | "IQ3_XXS" | "IQ1_S" | "IQ1_M" => 5.0 / 4.0,
        "Q3_K" => 1.0 / 3.0,
        "Q2_K" => 2.0 / 3.0,
        other => panic!("{other} has no bound yet: add it here"),
    }
}

/// What scales in the subnormal range of F16 may cost.
const TINY: f32 = 4e-6;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_error_stays_within_the_bound(weights in prop::collection::vec(-2f32..2.0, 256), shift in -2i32..4) {
        let weights: Vec<f32> = weights.iter().map(|weight| weight * 10f32.powi(shift)).collect();
        for format in writable() {
            let restored = dequantized(format, &quantized(format, &weights));
            let len = format.block_len.max(32);
            for (part, (weights, restored)) in weights.chunks(len).zip(restored.chunks(len)).enumerate() {
                let largest = weights.iter().fold(0f32, |most, weight| most.max(weight.abs()));
                for (weight, restored) in weights.iter().zip(restored) {
                    let error = (weight - restored).abs();
                    prop_assert!(error <= largest * error_bound(format) + TINY, "{format} {part}: {weight} {restored}");
                }
            }
        }
    }

    /// No bits make a quantizer panic, and no weight spoils another one of its block.
    #[test]
    fn any_bits_quantize_to_finite_weights(bits in prop::collection::vec(any::<u32>(), 256)) {
        let weights: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        for format in writable().filter(|format| format.kind == Kind::Blocks) {
            let restored = dequantized(format, &quantized(format, &weights));
            prop_assert!(restored.iter().all(|weight| weight.is_finite()), "{format}");
        }
    }
}

#[test]
fn one_bad_weight_spoils_no_other() {
    for format in writable().filter(|format| format.kind == Kind::Blocks) {
        let clean: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin() - 0.1).collect();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = clean.clone();
            weights[40] = bad;
            let restored = dequantized(format, &quantized(format, &weights));
            assert!(restored[40].abs() <= 1.2, "{format} {bad}: {}", restored[40]);
            let others = clean.iter().zip(&restored).enumerate().filter(|&(i, _)| i != 40);
            for (i, (weight, restored)) in others {
                assert!(
                    (weight - restored).abs() <= 1.1 * error_bound(format),
                    "{format} {bad} {i}: {restored}"
                );
            }
        }
    }
}

#[test]
fn scales_beyond_f16_saturate_and_tiny_ones_vanish() {
    for format in writable().filter(|format| format.kind == Kind::Blocks) {
        for magnitude in [f32::MAX, 1e30, 1e-45, 1e-38] {
            let weights: Vec<f32> =
                (0..256).map(|i| if i % 3 == 0 { magnitude } else { -magnitude }).collect();
            let restored = dequantized(format, &quantized(format, &weights));
            for (weight, restored) in weights.iter().zip(&restored) {
                assert!(restored.is_finite(), "{format} {magnitude:e}");
                // Not every combination of signs is a point of the smaller codebooks.
                let signs = !["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ3_XXS"].contains(&format.name);
                let kept = (restored - weight).abs() <= weight.abs() && restored * weight >= 0.0;
                assert!(kept || !signs, "{format}: {weight:e} became {restored:e}");
            }
        }
    }
}

/// Knuth's 64-bit linear congruential generator, as in `reference_errors.py`.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f64 / f64::from(1 << 24)
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

const ROWS: usize = 16;
const WIDTH: usize = 1024;

fn rows(kind: &str) -> Vec<f32> {
    let mut random = Random(1);
    let weight = |_| {
        let value = random.normal();
        let spread = match kind {
            "heavy" => {
                let [a, b, c, d] = [(); 4].map(|()| random.normal());
                ((a * a + b * b + c * c + d * d) / 4.0).sqrt()
            }
            _ => 1.0,
        };
        (value / spread * 0.02) as f32
    };
    (0..ROWS * WIDTH).map(weight).collect()
}

fn importance() -> Vec<f32> {
    let mut random = Random(2);
    (0..WIDTH).map(|_| random.normal()).map(|v| (v * v * v * v + 0.01) as f32).collect()
}

/// The weighted error relative to the weighted size of the weights.
fn relative_error(weights: &[f32], restored: &[f32], importance: Option<&[f32]>) -> f64 {
    let (mut error, mut size) = (0f64, 0f64);
    for (i, (&weight, &restored)) in weights.iter().zip(restored).enumerate() {
        let factor = importance.map_or(1.0, |importance| f64::from(importance[i % WIDTH]));
        error += factor * (f64::from(weight) - f64::from(restored)).powi(2);
        size += factor * f64::from(weight).powi(2);
    }
    (error / size).sqrt()
}

/// `reference_errors.tsv`: what llama.cpp's quantizers lose on the same rows.
#[test]
fn the_error_is_not_above_that_of_the_reference() {
    let table = String::from_utf8(golden("reference_errors.tsv")).unwrap();
    let (mut failures, mut seen) = (Vec::new(), Vec::new());
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (format, weights) = (Format::by_name(fields[0]).unwrap(), rows(fields[1]));
        let factors = (fields[2] == "yes").then(importance);
        let mut bytes = vec![0; format.bytes_for(weights.len() as u64).unwrap() as usize];
        format.quantize.unwrap()(&weights, factors.as_deref(), &mut bytes);
        let ours = relative_error(&weights, &dequantized(format, &bytes), factors.as_deref());
        let theirs: f64 = fields[3].parse().unwrap();
        let allowed = theirs
            * match (format.name, &factors) {
                // These round exactly as the reference does, but for its importance and the last digit of the table.
                ("Q8_0", _) | ("Q4_0", None) => 1.001,
                // llama.cpp refuses to write these without importance. Their length costs more than a search gains.
                ("IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS", None) => 1.03,
                // A search gains at least a hundredth, so that a broken one shows.
                _ => 0.99,
            };
        if ours > allowed {
            failures.push(format!("{line}: ours is {ours:.7}"));
        }
        seen.push(format.id);
    }
    assert!(failures.is_empty(), "{failures:#?}");
    for format in writable().filter(|format| format.kind == Kind::Blocks) {
        assert!(seen.contains(&format.id), "{format} is not in reference_errors.tsv");
    }
}

/// The length of weights in the direction of a block's is theirs: with many blocks, none is missing.
#[test]
fn quantizing_takes_no_length_away() {
    for kind in ["normal", "heavy"] {
        let weights = rows(kind);
        for format in writable() {
            let restored = dequantized(format, &quantized(format, &weights));
            let length =
                |values: &[f32]| weights.iter().zip(values).map(|(w, v)| f64::from(w * v)).sum::<f64>();
            let kept = length(&restored) / length(&weights);
            // Powers of two cannot be lengthened a little.
            let bound = if format.name == "MXFP4" { 0.02 } else { 0.01 };
            assert!((kept - 1.0).abs() < bound, "{format}, {kind}: {kept}");
        }
    }
}

#[test]
fn importance_that_says_nothing_changes_nothing() {
    let weights = &rows("normal")[..512];
    for format in writable().filter(|format| format.kind == Kind::Blocks && format.name != "Q4_0") {
        let expected = quantized(format, weights);
        for empty in [[0f32; 256], [f32::NAN; 256], [-1.0; 256], [f32::MAX; 256], [1e-40; 256]] {
            let mut bytes = vec![0; expected.len()];
            format.quantize.unwrap()(weights, Some(&empty), &mut bytes);
            assert!(bytes == expected, "{format} with {:e}", empty[0]);
        }
    }
}

/// A file made on one machine is the file made on another.
#[test]
fn every_isa_writes_the_same_bytes() {
    let mut weights = rows("heavy")[..2048].to_vec();
    weights.extend(floats(&golden("weights.f32"))[..1536].iter());
    (weights[3], weights[700]) = (f32::NAN, f32::NEG_INFINITY);
    let factors = importance()[..256].to_vec();
    for &(name, quantize) in QUANTIZE_ON {
        let format = Format::by_name(name).unwrap();
        let written = |isa: Isa| {
            let mut bytes = vec![0; format.bytes_for(weights.len() as u64).unwrap() as usize];
            let half = bytes.len() / 2 / format.block_bytes * format.block_bytes;
            let middle = half / format.block_bytes * format.block_len;
            quantize(isa, &weights[..middle], None, &mut bytes[..half]);
            quantize(isa, &weights[middle..], Some(&factors), &mut bytes[half..]);
            bytes
        };
        let expected = written(Isa::Portable);
        for isa in isas() {
            assert!(written(isa) == expected, "{format} differs on {isa}");
        }
    }
}
