//! Sessions of a model with a recurrent layer, whose state cannot go back.

use super::{Engine, Options};
use crate::gguf::{Bytes, Gguf, Metadata, Writer};
use crate::quant::Format;

const WIDTH: u64 = 32;
const TOKENS: u64 = 16;

/// A model of two layers, the first of them recurrent, with weights out of a counter.
fn gguf() -> Gguf {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "toy");
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 2),
    ] {
        metadata.set(format!("toy.{key}"), value);
    }
    let square = vec![WIDTH, WIDTH];
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![WIDTH, TOKENS]),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
        ("blk.0.toy_output.weight".to_owned(), square.clone()),
    ];
    for layer in 0..2 {
        tensors.extend(
            ["attn_norm", "ffn_norm"].map(|name| (format!("blk.{layer}.{name}.weight"), vec![WIDTH])),
        );
        let ffn = ["ffn_gate", "ffn_up", "ffn_down"];
        tensors.extend(ffn.map(|name| (format!("blk.{layer}.{name}.weight"), square.clone())));
    }
    tensors.extend(
        ["attn_q", "attn_k", "attn_v", "attn_output"].map(|n| (format!("blk.1.{n}.weight"), square.clone())),
    );
    let f32s = Format::by_name("F32").unwrap();
    let declared = tensors.iter().map(|(name, shape)| (name.clone(), f32s, shape.clone())).collect();
    let mut file = Writer::new(metadata, declared).unwrap().over(Vec::new()).unwrap();
    let mut counter = 0u32;
    for (name, shape) in &tensors {
        let count: u64 = shape.iter().product();
        let weight = |_| {
            counter = counter.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (counter >> 8) as f32 / (1 << 24) as f32 - 0.4
        };
        let bytes: Vec<u8> = (0..count).map(weight).flat_map(f32::to_le_bytes).collect();
        file.begin(name).unwrap();
        file.append(&bytes).unwrap();
        file.end().unwrap();
    }
    Gguf::from_bytes(Bytes::from(file.into_inner().unwrap())).unwrap()
}

fn engine() -> Engine {
    Engine::from_gguf(gguf(), Options { batch: 5, ..Options::default() }).unwrap()
}

fn logits(tokens: &[u32]) -> Vec<f32> {
    let engine = engine();
    let mut session = engine.session().unwrap();
    session.synchronise(tokens).unwrap();
    session.logits().to_vec()
}

#[test]
fn a_state_goes_on_and_is_computed_again_where_it_cannot_go_back() {
    let engine = engine();
    let mut session = engine.session().unwrap();
    let tokens: Vec<u32> = (0..13).map(|i| i * 5 % TOKENS as u32).collect();
    // In pieces of a batch, of one, and with another conversation between them.
    assert_eq!(session.synchronise(&tokens[..9]).unwrap(), 9);
    let mut other = engine.session().unwrap();
    other.synchronise(&[3, 3, 3]).unwrap();
    for count in 10..=tokens.len() {
        assert_eq!(session.synchronise(&tokens[..count]).unwrap(), 1, "what is known is kept");
    }
    assert_eq!(session.logits(), logits(&tokens));
    // Back to a common beginning: the state of then is gone, so all of it is computed.
    let branch = [&tokens[..6], &[1, 2]].concat();
    assert_eq!(session.synchronise(&branch).unwrap(), branch.len());
    assert_eq!(session.logits(), logits(&branch));
    assert_ne!(logits(&[1, 2, 3]), logits(&[2, 1, 3]), "the order counts");
}

#[test]
fn both_backends_agree() {
    let options = Options { plain: true, ..Options::default() };
    let plain = Engine::from_gguf(gguf(), options).unwrap();
    let mut session = plain.session().unwrap();
    session.synchronise(&[4, 9, 1]).unwrap();
    for (a, b) in session.logits().iter().zip(logits(&[4, 9, 1])) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}
