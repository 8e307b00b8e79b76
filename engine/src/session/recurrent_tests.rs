//! Sessions of a model with a recurrent layer, whose state cannot go back.

use super::{Batch, DeviceChoice, Engine, Options, made};
use crate::gguf::Gguf;
use crate::model::{Row, Wants};

const WIDTH: u64 = 32;
const TOKENS: u64 = 16;

/// A model of two layers, the first of them recurrent.
fn gguf() -> Gguf {
    let square = vec![WIDTH, WIDTH];
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![WIDTH, TOKENS]),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
        ("blk.0.toy_output.weight".to_owned(), square.clone()),
    ];
    for layer in 0..2 {
        let norms = ["attn_norm", "ffn_norm"];
        tensors.extend(norms.map(|name| (format!("blk.{layer}.{name}.weight"), vec![WIDTH])));
        let ffn = ["ffn_gate", "ffn_up", "ffn_down"];
        tensors.extend(ffn.map(|name| (format!("blk.{layer}.{name}.weight"), square.clone())));
    }
    let attention = ["attn_q", "attn_k", "attn_v", "attn_output"];
    tensors.extend(attention.map(|name| (format!("blk.1.{name}.weight"), square.clone())));
    let numbers = [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 2),
    ];
    made::file("toy", &numbers, &tensors)
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

/// A recurrent state is known at its end only: that is a beginning which others can share, any other is none.
#[test]
fn a_beginning_with_a_state_is_shared_where_it_ends() {
    let engine = engine();
    let mut batch = engine.batch(2).unwrap();
    let extend = |batch: &mut Batch<'_>, sequence, tokens: &[u32]| {
        for &token in tokens {
            let position = batch.len(sequence);
            batch.step(&[Row { sequence, position, token, wants: Wants::Logits }]).unwrap();
        }
        batch.logits(0).to_vec()
    };
    extend(&mut batch, 0, &[4, 9, 1]);
    assert_eq!(batch.fork(0, 2).len(), 0);
    let snapshot = batch.fork(0, 3);
    assert_eq!(snapshot.len(), 3);
    extend(&mut batch, 0, &[7, 7]);
    batch.replace(1, snapshot.fork(3));
    assert_eq!(extend(&mut batch, 1, &[2]), logits(&[4, 9, 1, 2]));
    assert_eq!(extend(&mut batch, 0, &[2]), logits(&[4, 9, 1, 7, 7, 2]));
}

/// What no card has kernels for is refused by name before one is looked for, or computed by the processor.
#[test]
fn cards_refuse_what_they_have_no_kernels_for() {
    let on = |device| Engine::from_gguf(gguf(), Options { device, ..Options::default() });
    let error = on(DeviceChoice::Cuda(0)).err().unwrap().to_string();
    assert!(error.contains("toy: a mixer without kernels for cards"), "{error}");
    assert!(error.contains("--device cpu"), "{error}");
    let engine = on(DeviceChoice::Auto).unwrap();
    assert!(engine.memory().card.is_none());
    let mut session = engine.session().unwrap();
    session.synchronise(&[4, 9, 1]).unwrap();
    assert_eq!(session.logits(), logits(&[4, 9, 1]));
}
