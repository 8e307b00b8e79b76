//! Sessions of models with recurrent layers, whose states go back to where they were marked and no further.

use super::{Batch, DeviceChoice, Engine, Options, made};
use crate::gguf::Gguf;
use crate::model::{PAGE, Row, SNAPSHOTS, Wants};

const WIDTH: u64 = 32;
const TOKENS: u64 = 16;

/// Two layers: a gated delta net and gated attention, a dense FFN in each.
fn gguf() -> Gguf {
    with_taps(4)
}

fn with_taps(taps: u32) -> Gguf {
    let mut tensors = vec![];
    let mut add = |name: &str, shape: &[u64]| tensors.push((name.to_owned(), shape.to_vec()));
    add("token_embd.weight", &[WIDTH, TOKENS]);
    add("output_norm.weight", &[WIDTH]);
    for (name, shape) in [
        ("attn_qkv.weight", &[WIDTH, 2 * 8 + 2 * 16][..]),
        ("attn_gate.weight", &[WIDTH, 32]),
        ("ssm_conv1d.weight", &[u64::from(taps), 48]),
        ("ssm_beta.weight", &[WIDTH, 2]),
        ("ssm_alpha.weight", &[WIDTH, 2]),
        ("ssm_dt.bias", &[2]),
        ("ssm_a", &[2]),
        ("ssm_norm.weight", &[16]),
        ("ssm_out.weight", &[32, WIDTH]),
    ] {
        add(&format!("blk.0.{name}"), shape);
    }
    for (name, shape) in [
        ("attn_q.weight", [WIDTH, 4 * 16]),
        ("attn_k.weight", [WIDTH, 16]),
        ("attn_v.weight", [WIDTH, 16]),
        ("attn_output.weight", [32, WIDTH]),
        ("attn_q_norm.weight", [16, 1]),
        ("attn_k_norm.weight", [16, 1]),
    ] {
        add(&format!("blk.1.{name}"), &shape);
    }
    for layer in 0..2 {
        for name in ["attn_norm", "post_attention_norm"] {
            add(&format!("blk.{layer}.{name}.weight"), &[WIDTH]);
        }
        for name in ["ffn_gate", "ffn_up", "ffn_down"] {
            add(&format!("blk.{layer}.{name}.weight"), &[WIDTH, WIDTH]);
        }
    }
    let numbers = [
        ("block_count", 2),
        ("context_length", 1024),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", WIDTH as u32),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("rope.dimension_count", 4),
        ("full_attention_interval", 2),
        ("ssm.conv_kernel", taps),
        ("ssm.state_size", 8),
        ("ssm.group_count", 1),
        ("ssm.time_step_rank", 2),
        ("ssm.inner_size", 32),
    ];
    made::file("qwen35", &numbers, &tensors)
}

fn engine(sequences: Option<usize>) -> Engine {
    Engine::from_gguf(gguf(), Options { batch: 5, sequences, ..Options::default() }).unwrap()
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i + 5 * i) % TOKENS as u32).collect()
}

fn logits(tokens: &[u32]) -> Vec<f32> {
    let engine = engine(None);
    let mut session = engine.session().unwrap();
    session.synchronise(tokens).unwrap();
    session.logits().to_vec()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    // Other numbers of rows take other kernels for matrices of floats.
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn a_state_goes_on_and_back_to_where_turns_began() {
    let engine = engine(None);
    let mut session = engine.session().unwrap();
    let all = tokens(40);
    // In pieces of a batch, of one, and with another conversation between them.
    assert_eq!(session.synchronise(&all[..9]).unwrap(), 9);
    let mut other = engine.session().unwrap();
    other.synchronise(&[3, 3, 3]).unwrap();
    for count in 10..=14 {
        assert_eq!(session.synchronise(&all[..count]).unwrap(), 1, "what is known is kept");
    }
    assert_close(session.logits(), &logits(&all[..14]));
    // The second turn, then another one in its place: back to its beginning, or to before the first prompt's last token.
    assert_eq!(session.synchronise(&all[..20]).unwrap(), 6);
    let branch = [&all[..16], &[1, 2, 3]].concat();
    assert_eq!(session.synchronise(&branch).unwrap(), branch.len() - 14);
    assert_close(session.logits(), &logits(&branch));
    let branch = [&all[..11], &[7, 7]].concat();
    assert_eq!(session.synchronise(&branch).unwrap(), branch.len() - 8);
    assert_close(session.logits(), &logits(&branch));
    // Where conversations once parted a third one can begin.
    let branch = [&all[..11], &[4, 9, 9]].concat();
    assert_eq!(session.synchronise(&branch).unwrap(), 3);
    assert_close(session.logits(), &logits(&branch));
    assert_eq!(session.synchronise(&branch).unwrap(), 1, "once more");
    assert_eq!(session.synchronise(&[5, 6]).unwrap(), 2, "from the beginning");
    assert_close(session.logits(), &logits(&[5, 6]));
    assert_ne!(logits(&[1, 2, 3]), logits(&[2, 1, 3]), "the order counts");
}

#[test]
fn prompts_in_pieces_are_one_turn() {
    let engine = engine(None);
    let mut session = engine.session().unwrap();
    let all = tokens(30);
    for end in [7, 14, 21] {
        session.synchronise_for(&all[..end], Wants::Nothing).unwrap();
    }
    session.synchronise(&all[..22]).unwrap();
    assert_eq!(session.synchronise(&[&all[..21], &[3][..]].concat()).unwrap(), 1);
    assert_eq!(
        session.synchronise(&[&all[..16], &[3, 3][..]].concat()).unwrap(),
        18,
        "nothing between is kept"
    );
}

#[test]
fn both_backends_agree() {
    let options = Options { plain: true, ..Options::default() };
    let plain = Engine::from_gguf(gguf(), options).unwrap();
    let mut session = plain.session().unwrap();
    session.synchronise(&tokens(30)).unwrap();
    assert_close(session.logits(), &logits(&tokens(30)));
}

fn extend(batch: &mut Batch<'_>, sequence: usize, tokens: &[u32]) -> Vec<f32> {
    for &token in tokens {
        let position = batch.len(sequence);
        batch.step(&[Row { sequence, position, token, wants: Wants::Logits }]).unwrap();
    }
    batch.logits(0).to_vec()
}

/// States count as pages and are copied when they are written; what is shared is not.
#[test]
fn beginnings_are_shared_where_states_are_known() {
    let engine = engine(Some(2));
    let mut batch = engine.batch(2).unwrap();
    batch.mark(0, 2);
    assert_eq!(batch.pages_for(0, 3), 2, "keys and values, and a state");
    extend(&mut batch, 0, &[4, 9, 1]);
    assert_eq!(engine.pool().used(), 3, "with what was marked");
    let beginnings: Vec<_> = (0..5).map(|len| (batch.reach(0, len), batch.fork(0, len).len())).collect();
    assert_eq!(beginnings, [(0, 0), (0, 0), (2, 2), (3, 3), (3, 3)]);
    let snapshot = batch.fork(0, 3);
    extend(&mut batch, 0, &[7, 7]);
    batch.replace(1, snapshot.fork(3));
    assert_eq!(extend(&mut batch, 1, &[2]), logits_one_by_one(&[4, 9, 1, 2]));
    assert_eq!(extend(&mut batch, 0, &[2]), logits_one_by_one(&[4, 9, 1, 7, 7, 2]));
    drop((snapshot, batch));
    assert_eq!(engine.pool().used(), 0);
}

fn logits_one_by_one(tokens: &[u32]) -> Vec<f32> {
    let engine = engine(None);
    let mut batch = engine.batch(1).unwrap();
    extend(&mut batch, 0, tokens)
}

/// The latest are kept, and they give way to what is needed.
#[test]
fn snapshots_are_few_and_give_way() {
    let engine = engine(Some(1));
    let mut batch = engine.batch(2).unwrap();
    (1..=6).for_each(|len| batch.mark(0, len));
    extend(&mut batch, 0, &tokens(8));
    let known: Vec<_> = (1..=8).filter(|len| batch.reach(0, *len) == *len).collect();
    assert_eq!(known, [3, 4, 5, 6, 8]);
    assert_eq!(known.len(), SNAPSHOTS + 1);
    // Others take all other pages.
    let mut held = vec![];
    while engine.pool().free() >= batch.pages_for(1, 1) {
        extend(&mut batch, 1, &[1]);
        held.push(batch.fork(1, 1));
        batch.rewind(1, 0);
    }
    assert!(!held.is_empty() && engine.pool().free() < 2, "a page and a state each");
    let shared = batch.fork(0, 8);
    assert_eq!(batch.pages_for(0, 9), 2, "a copy of its page and its state");
    drop(shared);
    assert_eq!(batch.pages_for(0, 2 * PAGE + 1), 0, "two pages, which its snapshots have");
    let more = tokens(2 * PAGE as u32 + 1);
    let row = |position: usize| Row { sequence: 0, position, token: more[position], wants: Wants::Logits };
    batch.step(&(8..more.len()).map(row).collect::<Vec<_>>()).unwrap();
    assert!(batch.reach(0, 3) < 3 && batch.reach(0, 6) == 6, "the oldest gave way");
    assert_close(batch.logits(more.len() - 9), &logits(&more));
}

/// What no card has kernels for is refused by name before one is looked for, or computed by the processor.
#[test]
fn cards_refuse_what_they_have_no_kernels_for() {
    let on = |device| Engine::from_gguf(with_taps(9), Options { device, ..Options::default() });
    let error = on(DeviceChoice::Cuda(0)).err().unwrap().to_string();
    assert!(error.contains("qwen35: convolutions over 9 positions"), "{error}");
    assert!(error.contains("without kernels for cards") && error.contains("--device cpu"), "{error}");
    let engine = on(DeviceChoice::Auto).unwrap();
    assert!(engine.memory().card.is_none());
    let processor = on(DeviceChoice::Cpu).unwrap();
    let [found, expected] = [&engine, &processor].map(|engine| {
        let mut session = engine.session().unwrap();
        session.synchronise(&[4, 9, 1]).unwrap();
        session.logits().to_vec()
    });
    assert_eq!(found, expected);
}
