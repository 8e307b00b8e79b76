//! Views against the same change done element by element.

use super::*;
use crate::hf::params::Dim;
use serde_json::json;

/// A plain f32 tensor that counts up.
fn counting(len: usize) -> Vec<u8> {
    (0..len).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn read_all(view: &View) -> Vec<f32> {
    let (rows, columns) = (view.rows(), view.columns() as usize);
    let mut out = vec![0.0; rows as usize * columns];
    view.read(0..rows, &mut out, columns);
    // Row by row must give the same as all at once.
    for row in 0..rows {
        let mut single = vec![0.0; columns];
        view.read(row..row + 1, &mut single, columns);
        assert_eq!(single, out[row as usize * columns..][..columns]);
    }
    out
}

fn changed(bytes: &[u8], shape: &[u64], ops: &[Op]) -> (Vec<u64>, Vec<f32>) {
    let params = Params::plain(&json!({ "num_attention_heads": 2, "qk_nope_head_dim": 2,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 1, "linear_value_head_dim": 1 }));
    let strides = crate::checkpoint::row_major(shape).unwrap();
    let mut view = View::new(Elements::Plain(Dtype::F32, bytes), shape, &strides);
    for &op in ops {
        view = view.apply(op, &params).unwrap().unwrap();
    }
    (view.shape(), read_all(&view))
}

/// Shape, changes, shape and values after them.
type Case = (&'static [u64], &'static [Op], &'static [u64], &'static [f32]);

const KEY_HEAD: &[Dim] = &[Dim::KeyWidth, Dim::KeyWidth, Dim::ValuesPerKey];
const TILED_COLUMNS: &[f32] = &[0., 1., 4., 5., 2., 3., 6., 7., 8., 9., 12., 13., 10., 11., 14., 15.];

#[test]
fn ops() {
    let bytes = counting(24);
    let cases: &[Case] = &[
        (&[2, 3], &[Op::Transpose], &[3, 2], &[0., 3., 1., 4., 2., 5.]),
        (&[2, 2, 3], &[Op::Transpose], &[2, 3, 2], &[0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]),
        (&[4, 2], &[Op::Part(1, 2)], &[2, 2], &[4., 5., 6., 7.]),
        (&[4], &[Op::Part(1, 2)], &[2], &[2., 3.]),
        (&[4, 2], &[Op::Every(1, 2)], &[2, 2], &[2., 3., 6., 7.]),
        (&[2, 4], &[Op::EveryLast(1, 2)], &[2, 2], &[1., 3., 5., 7.]),
        (&[1, 2, 4], &[Op::Transpose, Op::Every(1, 2)], &[1, 2, 2], &[1., 5., 3., 7.]),
        (&[8, 1], &[Op::PairHalves(Dim::Heads)], &[8, 1], &[0., 2., 1., 3., 4., 6., 5., 7.]),
        (&[8], &[Op::PairHalves(Dim::Heads)], &[8], &[0., 2., 1., 3., 4., 6., 5., 7.]),
        (&[6, 2], &[Op::SplitHeads(Dim::Heads, Dim::HeadPlain, false)], &[2, 1, 2], &[4., 5., 10., 11.]),
        (
            &[6, 2],
            &[Op::SplitHeads(Dim::Heads, Dim::HeadPlain, true), Op::Transpose],
            &[2, 2, 2],
            &[0., 2., 1., 3., 6., 8., 7., 9.],
        ),
        (&[2, 1, 3], &[Op::Squeeze], &[2, 3], &[0., 1., 2., 3., 4., 5.]),
        (&[3], &[Op::Unsqueeze], &[3, 1], &[0., 1., 2.]),
        (&[6], &[Op::Fold(Dim::Heads)], &[2, 3], &[0., 1., 2., 3., 4., 5.]),
        // Two key heads of a query, a key and two values each.
        (&[8, 1], &[Op::Section(Dim::KeyHeads, KEY_HEAD, 1)], &[2, 1], &[1., 5.]),
        (&[8, 1], &[Op::Section(Dim::KeyHeads, KEY_HEAD, 2)], &[4, 1], &[2., 3., 6., 7.]),
        (&[6], &[Op::Section(Dim::One, &[Dim::Heads, Dim::ValueHeads], 1)], &[4], &[2., 3., 4., 5.]),
        // Value heads as (key head, value head) become (value head, key head).
        (&[4], &[Op::TileRows], &[4], &[0., 2., 1., 3.]),
        (&[8, 1], &[Op::TileRows], &[8, 1], &[0., 1., 4., 5., 2., 3., 6., 7.]),
        (&[2, 8], &[Op::TileColumns], &[2, 8], TILED_COLUMNS),
    ];
    for (shape, ops, expected_shape, expected) in cases {
        assert_eq!(
            changed(&bytes, shape, ops),
            (expected_shape.to_vec(), expected.to_vec()),
            "{shape:?} {ops:?}"
        );
    }
}

#[test]
fn small_floats() {
    let cases =
        [(0x00, 0.0), (0x38, 1.0), (0xb8, -1.0), (0x7e, 448.0), (0x01, 1.0 / 512.0), (0x08, 1.0 / 64.0)];
    for (byte, expected) in cases {
        assert_eq!(e4m3(byte), expected, "{byte:#x}");
    }
    assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    assert_eq!((e2m1(7), e2m1(9)), (6.0, -0.5));
    assert_eq!((power_of_two(127), power_of_two(128), power_of_two(1)), (1.0, 2.0, f32::MIN_POSITIVE));
    assert_eq!(power_of_two(0), f32::MIN_POSITIVE / 2.0);
    assert_eq!(element(Dtype::F8E5M2, &[0x3c], 0), 1.0);
}

#[test]
fn tiles_have_their_own_factor() {
    let bytes = [0x38u8; 6]; // 2 x 3 ones
    let factors: Vec<u8> = [2f32, 3.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    let elements = Elements::Tiled {
        dtype: Dtype::F8E4M3,
        factor_dtype: Dtype::F32,
        bytes: &bytes,
        factors: &factors,
        columns: 3,
        tile: [2, 2],
    };
    assert_eq!(read_all(&View::new(elements, &[2, 3], &[3, 1])), [2., 2., 3., 2., 2., 3.]);
}

/// Bits move, values stay: the repacked block means to GGUF's reader what the original means to ours.
#[test]
fn mxfp4_keeps_its_bits() {
    let codes: Vec<u8> = (0..64).map(|i| (i * 37 + 11) as u8).collect();
    let exponents = [120, 127, 128, 1];
    let view = View::new(Elements::Mxfp4 { codes: &codes, exponents: &exponents }, &[2, 64], &[64, 1]);
    keeps_its_bits(&view, "MXFP4");
}

#[test]
fn int4_keeps_its_bits() {
    let codes: Vec<u8> = (0..64).map(|i| (i * 37 + 11) as u8).collect();
    let scales: Vec<u8> =
        [0.5f32, -2.0, 3.0, 0.0].iter().flat_map(|&s| half::bf16::from_f32(s).to_le_bytes()).collect();
    for (group, factors) in [(32, [0.5, -2.0, 3.0, 0.0]), (64, [0.5, 0.5, -2.0, -2.0])] {
        let elements = Elements::Int4 { codes: &codes, scale_dtype: Dtype::Bf16, scales: &scales, group };
        let view = View::new(elements, &[2, 64], &[64, 1]);
        let code = |i: usize| f32::from(codes[i / 2] >> (i % 2 * 4) & 15) - 8.0;
        let expected: Vec<f32> = (0..128).map(|i| code(i) * factors[i / 32]).collect();
        assert_eq!(read_all(&view), expected);
        keeps_its_bits(&view, "Q4_0");
    }
    let elements = Elements::Int4 { codes: &codes, scale_dtype: Dtype::Bf16, scales: &scales, group: 16 };
    assert_eq!(View::new(elements, &[2, 32], &[32, 1]).stored(), None, "two scales in a block");
}

fn keeps_its_bits(view: &View, format: &str) {
    assert_eq!(view.stored(), Some(format));
    let format = moewe_engine::quant::Format::by_name(format).unwrap();
    let mut packed = vec![0; format.row_bytes(128)];
    view.copy(0..2, &mut packed);
    let mut weights = vec![0.0; 128];
    (format.dequantize)(&packed, &mut weights);
    assert_eq!(weights, read_all(view));
}
