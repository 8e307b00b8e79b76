//! Breaks a GGUF file in one to three places that matter.
//!
//! Numbers become limits, neighbours, bit flips or values from elsewhere in the file; sometimes a field or the rest
//! of the file is cut out or doubled.

use super::layout::{Field, Kind};
use super::random::Random;

const KINDS: [Kind; 18] = [
    Kind::Magic,
    Kind::Version,
    Kind::TensorCount,
    Kind::EntryCount,
    Kind::Length,
    Kind::Key,
    Kind::ValueType,
    Kind::Number,
    Kind::Text,
    Kind::ElementType,
    Kind::ArrayCount,
    Kind::Element,
    Kind::Name,
    Kind::DimensionCount,
    Kind::Size,
    Kind::TensorType,
    Kind::Offset,
    Kind::Weights,
];

/// How often each kind is chosen: hyper-parameters and the directory most, the magic hardly ever.
const WEIGHTS: [usize; KINDS.len()] = [1, 1, 3, 3, 8, 4, 6, 60, 10, 4, 8, 24, 8, 4, 12, 10, 12, 20];

/// A broken copy of `file`, whose fields are `fields`.
pub(crate) fn mutate(file: &[u8], fields: &[Field], random: &mut Random) -> Vec<u8> {
    let mut copy = file.to_vec();
    let places = 1 + random.below(8) / 6 + random.below(8) / 7;
    for _ in 0..places {
        let Some(field) = choose(fields, random) else { continue };
        change(&mut copy, field, fields, random);
    }
    if random.once_in(12) {
        reshape(&mut copy, fields, random);
    }
    copy
}

fn choose<'a>(fields: &'a [Field], random: &mut Random) -> Option<&'a Field> {
    let mut at = random.below(WEIGHTS.iter().sum());
    let kind = KINDS.iter().zip(WEIGHTS).find(|(_, weight)| {
        let here = at < *weight;
        at = at.saturating_sub(*weight);
        here
    })?;
    let of_kind: Vec<_> = fields.iter().filter(|field| field.kind == *kind.0 && field.len > 0).collect();
    (!of_kind.is_empty()).then(|| *random.pick(&of_kind))
}

fn change(copy: &mut [u8], field: &Field, fields: &[Field], random: &mut Random) {
    let range = field.start..field.start + field.len;
    if field.len > 8 || matches!(field.kind, Kind::Key | Kind::Text | Kind::Name | Kind::Weights) {
        let at = field.start + random.below(field.len);
        let any = random.next() as u8;
        copy[at] = *random.pick(&[0, b'.', b'0', b'9', 0x7f, 0xff, any]);
        return;
    }
    let old = read(&copy[range.clone()]);
    let new = match random.below(10) {
        0..=4 => limit(field.len, random),
        5 => old.wrapping_add(random.below(5) as u64).wrapping_sub(2),
        6 => old ^ 1 << random.below(8 * field.len),
        7 => old.wrapping_mul(1 + random.below(64) as u64) / (1 + random.below(4) as u64),
        8 => {
            let other = random.pick(fields);
            if other.len <= 8 { read(&copy[other.start..other.start + other.len]) } else { 0 }
        }
        _ => random.next() >> random.below(64),
    };
    copy[range].copy_from_slice(&new.to_le_bytes()[..field.len]);
}

/// Numbers at which arithmetic goes wrong, as integers and as floats.
fn limit(len: usize, random: &mut Random) -> u64 {
    let small = random.below(20) as u64;
    let power = 1u64 << random.below(8 * len);
    let float = *random.pick(&[
        0.0,
        -1.0,
        1e-30,
        1e30,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
    ]);
    let float = if len == 8 { f64::from(float).to_bits() } else { float.to_bits().into() };
    let top = u64::MAX >> (64 - 8 * len);
    *random.pick(&[
        small,
        0,
        power,
        power - 1,
        power.wrapping_add(1),
        top,
        top - 1,
        top / 2,
        top / 2 + 1,
        top - 31,
        float,
    ])
}

/// Changes the length of the file.
fn reshape(copy: &mut Vec<u8>, fields: &[Field], random: &mut Random) {
    let field = random.pick(fields);
    let (start, end) = (field.start.min(copy.len()), (field.start + field.len).min(copy.len()));
    match random.below(4) {
        0 => copy.truncate(start + random.below(9)),
        1 => drop(copy.drain(start..end)),
        2 => {
            let again = copy[start..end].to_vec();
            drop(copy.splice(end..end, again));
        }
        _ => copy.extend_from_slice(&vec![0; random.below(4096)]),
    }
}

fn read(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | byte as u64)
}
