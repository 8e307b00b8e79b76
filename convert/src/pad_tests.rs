//! Which widths are widened, when it pays, and what then stands in the rows.

use crate::calibrate::Guide;
use crate::options::{Options, Pad};
use crate::pad::{padded, widths};
use crate::recipe::{Choice, Recipe};
use crate::report::{Padding, Report};
use crate::settle::{Settled, WEIGHTS, settle};
use crate::source::{Change, Source, change_all};
use crate::tensor::{Rows, Subject, Tensor};
use moewe_engine::gguf::Metadata;
use moewe_engine::quant::Format;
use moewe_engine::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// A model of such tensors.
struct Fake {
    metadata: Metadata,
    tensors: Vec<Tensor<'static>>,
}

impl Source for Fake {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
    fn tensors(&self) -> &[Tensor<'_>] {
        &self.tensors
    }
    fn change(&mut self, change: &mut dyn Change) -> Result<()> {
        change_all(&mut self.tensors, change)
    }
    fn release(&self) {}
    fn tell(&self, _report: &mut Report) {}
}

/// Pseudo-random weights.
struct Random {
    columns: u64,
    stored: Option<&'static Format>,
}

impl Random {
    fn weight(&self, i: u64) -> f32 {
        let hash = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        hash as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Rows for Random {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let columns = self.columns;
        (rows.start * columns..rows.end * columns).zip(out).for_each(|(i, out)| *out = self.weight(i));
        Ok(())
    }
    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let mut weights = vec![0.0; (self.columns * (rows.end - rows.start)) as usize];
        self.read(rows, &mut weights)?;
        (self.stored.unwrap().quantize.unwrap())(&weights, None, out);
        Ok(())
    }
}

fn fake(name: &str, shape: &[u64]) -> Tensor<'static> {
    stored(name, shape, None)
}

fn stored(name: &str, shape: &[u64], stored: Option<&'static Format>) -> Tensor<'static> {
    let is_original = stored.is_some_and(|format| format.name == "MXFP4");
    let subject = Subject {
        name: name.to_owned(),
        shape: shape.to_vec(),
        stored,
        float: None,
        is_original,
        padding: 0,
    };
    Tensor { contents: Arc::new(Random { columns: subject.columns(), stored }), subject }
}

/// A layer of experts with a shared one, hidden width `units`.
fn layer(units: u64) -> Vec<Tensor<'static>> {
    vec![
        fake("blk.0.attn_q.weight", &[64, 256]),
        fake("blk.0.ffn_norm.weight", &[256]),
        fake("blk.0.ffn_gate_inp.weight", &[2, 256]),
        fake("blk.0.ffn_gate_exps.weight", &[2, units, 256]),
        fake("blk.0.ffn_up_exps.weight", &[2, units, 256]),
        fake("blk.0.ffn_up_exps.bias", &[2, units]),
        fake("blk.0.ffn_down_exps.weight", &[2, 256, units]),
        fake("blk.0.ffn_up_shexp.weight", &[2 * units, 256]),
        fake("blk.0.ffn_down_shexp.weight", &[256, 2 * units]),
    ]
}

fn metadata(units: u32) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "deepseek2");
    metadata.set("deepseek2.expert_feed_forward_length", units);
    metadata.set("deepseek2.feed_forward_length", 1000u32);
    metadata
}

fn format(name: &str) -> &'static Format {
    Format::by_name(name).unwrap()
}

fn all(tensor: &Tensor) -> Vec<f32> {
    let count = tensor.subject.rows();
    // In pieces that begin and end anywhere.
    let pieces = (0..count).step_by(7).map(|start| tensor.read(start..(start + 7).min(count)).unwrap());
    pieces.flatten().collect()
}

#[test]
fn zeros_stand_behind_the_units_of_each_matrix() {
    let mut tensors = layer(40);
    tensors.push(fake("blk.0.ffn_gate_up_exps.weight", &[2, 80, 8]));
    let widths = widths(&metadata(40), &tensors);
    assert_eq!(widths.len(), 1);
    assert_eq!(widths[0].candidates().collect::<Vec<_>>(), [64, 256]);
    let wide = padded(&tensors, &[(&widths[0], 64)]);
    let shape = |i: usize| wide[i].subject.shape.clone();
    assert_eq!([shape(0), shape(2), shape(1)], [vec![64, 256], vec![2, 256], vec![256]]);
    assert_eq!([shape(3), shape(6), shape(5)], [vec![2, 64, 256], vec![2, 256, 64], vec![2, 64]]);
    assert_eq!([shape(7), shape(8), shape(9)], [vec![128, 256], vec![256, 128], vec![2, 128, 8]]);
    for (i, (narrow, wide)) in tensors.iter().zip(&wide).enumerate() {
        // Matrices of `from` rows or columns become `to` of them.
        let (rows, from, to) = match i {
            3 | 4 => (2, 40 * 256, 64 * 256),
            5 => (2, 40, 64),
            6 => (512, 40, 64),
            7 => (1, 80 * 256, 128 * 256),
            8 => (256, 80, 128),
            9 => (4, 40 * 8, 64 * 8),
            _ => continue,
        };
        let (narrow, wide) = (all(narrow), all(wide));
        for matrix in 0..rows {
            let (before, after) = (&narrow[matrix * from..][..from], &wide[matrix * to..][..to]);
            assert_eq!(&after[..from], before, "{i}");
            assert!(after[from..].iter().all(|&weight| weight == 0.0), "{i}");
        }
    }
}

#[test]
fn stored_blocks_keep_their_bytes() {
    for name in ["Q8_0", "MXFP4"] {
        let mut tensors = layer(96);
        for tensor in &mut tensors {
            *tensor = stored(&tensor.subject.name, &tensor.subject.shape, Some(format(name)));
        }
        let widths = widths(&metadata(96), &tensors);
        let wide = padded(&tensors, &[(&widths[0], 256)]);
        for i in [3, 6] {
            let columns = wide[i].subject.columns();
            let rows = 3..101;
            let mut bytes = vec![0xff; (format(name).bytes_for(columns).unwrap() * 98) as usize];
            wide[i].contents.copy(rows.clone(), &mut bytes).unwrap();
            let mut found = vec![0.0; (columns * 98) as usize];
            (format(name).dequantize)(&bytes, &mut found);
            let expected = wide[i].read(rows).unwrap();
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < if name == "Q8_0" { 0.005 } else { 0.2 }, "{name} {i}: {error}");
            assert!(expected.iter().zip(&found).all(|(&e, &f)| e != 0.0 || f == 0.0), "{name} {i}");
        }
    }
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let found = |change: &dyn Fn(&mut Metadata, &mut Vec<Tensor>)| {
        let (mut metadata, mut tensors) = (metadata(40), layer(40));
        change(&mut metadata, &mut tensors);
        widths(&metadata, &tensors).len()
    };
    assert_eq!(found(&|_, _| ()), 1);
    assert_eq!(
        found(&|_, tensors| tensors.push(fake("blk.0.ffn_sub_norm.weight", &[40]))),
        0,
        "a norm over units"
    );
    assert_eq!(found(&|_, tensors| tensors[4].subject.shape[1] = 41), 0, "another width");
    assert_eq!(found(&|_, tensors| tensors[7].subject.shape[0] = 120), 0, "shared matrices that differ");
    let key = "deepseek2.expert_feed_forward_length";
    assert_eq!(found(&|metadata, _| metadata.set(key, vec![40u32, 40])), 0, "a width per layer");
    assert_eq!(found(&|metadata, _| metadata.set(key, 0u32)), 0);
}

fn settled(units: u32, options: &Options) -> (Vec<Padding>, f64) {
    let source = Fake { metadata: metadata(units), tensors: layer(u64::from(units)) };
    let Settled { tensors, choices, paddings, weights, .. } =
        settle(&source, options, &Guide::default()).unwrap();
    let bytes =
        |(tensor, choice): (&Tensor, &Choice)| choice.format.bytes_for(tensor.subject.weights()).unwrap();
    let bytes: u64 = tensors.iter().zip(&choices).map(bytes).sum();
    assert_eq!(weights, source.tensors.iter().map(|t| t.subject.weights()).sum::<u64>());
    (paddings, bytes as f64 * 8.0 / weights as f64)
}

#[test]
fn padding_has_to_pay() {
    // 480 units need a fifteenth more to be 512, 288 need seven ninths.
    for (units, recipe, expected) in [
        (480, Recipe::Bits(2.9), Some(512)),
        (288, Recipe::Bits(4.8), None),
        (480, Recipe::Bits(8.6), None),
        (512, Recipe::Bits(2.9), None),
        (480, Recipe::Uniform(format("Q2_K")), Some(512)),
        (288, Recipe::Uniform(format("Q2_K")), None),
        (480, Recipe::Uniform(format("F16")), None),
        (496, Recipe::Uniform(format("Q8_0")), Some(512)),
        (480, Recipe::by_name("Q2_K").unwrap(), None),
    ] {
        let (paddings, bits) = settled(units, &Options::with(recipe));
        assert_eq!(paddings.first().map(|padding| padding.to), expected, "{units} {recipe}");
        let (_, without) = settled(units, &Options { pad: Pad::Never, ..Options::with(recipe) });
        match recipe {
            Recipe::Bits(budget) => assert!(bits <= budget.max(without), "{units} {recipe}: {bits}"),
            _ => assert!(bits <= without, "{units} {recipe}: {bits} {without}"),
        }
    }
    let always = Options { pad: Pad::Always, ..Options::with(Recipe::by_name("F32").unwrap()) };
    let (paddings, bits) = settled(480, &always);
    assert_eq!(paddings[0].to_string(), "deepseek2.expert_feed_forward_length: 480 padded to 512 with zeros");
    assert!(bits > 33.0, "{bits} bits of the source's weights");
}

#[test]
fn a_padded_file_counts_its_own_weights() {
    let mut source = Fake { metadata: metadata(512), tensors: layer(512) };
    source.metadata.set(WEIGHTS, 1000u64);
    let options = Options::with(Recipe::Bits(4.8));
    assert_eq!(settle(&source, &options, &Guide::default()).unwrap().weights, 1000);
    let all = source.tensors.iter().map(|tensor| tensor.subject.weights()).sum::<u64>();
    source.metadata.set(WEIGHTS, u64::MAX);
    let found = settle(&source, &options, &Guide::default()).unwrap().weights;
    assert_eq!(found, all, "nobody has more than there are");
}

/// Rows that cannot be read.
struct Broken;

impl Rows for Broken {
    fn read(&self, _rows: Range<u64>, _out: &mut [f32]) -> Result<()> {
        Err(Error::request("the disk is gone"))
    }
    fn copy(&self, _rows: Range<u64>, _out: &mut [u8]) -> Result<()> {
        Err(Error::request("the disk is gone"))
    }
}

/// Measuring a format has no way to tell of it, so whoever measures has to.
#[test]
fn what_cannot_be_read_is_no_error_of_zero() {
    let mut source = Fake { metadata: metadata(512), tensors: layer(512) };
    source.tensors[3].contents = Arc::new(Broken);
    let settled = settle(&source, &Options::with(Recipe::Bits(2.9)), &Guide::default());
    assert!(settled.is_err_and(|error| error.to_string().contains("the disk is gone")));
}
