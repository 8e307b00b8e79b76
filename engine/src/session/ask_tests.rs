//! A layer's missing experts are asked for before its shared expert and the guess for the next layer are computed.

use super::{Engine, MemoryLimit, Options, made};
use crate::error::Result;
use crate::experts::ExpertStore;
use crate::model::{Observe, Routing, Row, Site, Wants};

const WIDTH: u64 = 32;
const EXPERTS: u64 = 8;
const USED: u32 = 2;

/// Two layers of experts, with a shared one in each.
pub(super) fn engine(options: Options) -> Result<Engine> {
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![WIDTH, 16]),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[u64]| {
            tensors.push((format!("blk.{layer}.{name}.weight"), shape.to_vec()));
        };
        ["attn_norm", "ffn_norm"].iter().for_each(|name| add(name, &[WIDTH]));
        let square =
            ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
        square.iter().for_each(|name| add(name, &[WIDTH, WIDTH]));
        add("ffn_gate_inp", &[WIDTH, EXPERTS]);
        let experts = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
        experts.iter().for_each(|name| add(name, &[WIDTH, WIDTH, EXPERTS]));
    }
    let numbers = [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("attention.head_count", 2),
        ("feed_forward_length", WIDTH as u32),
        ("expert_feed_forward_length", WIDTH as u32),
        ("expert_shared_feed_forward_length", WIDTH as u32),
        ("expert_count", EXPERTS as u32),
        ("expert_used_count", USED),
    ];
    Engine::from_gguf(made::file("qwen2moe", &numbers, &tensors), options)
}

/// What the store had been asked for when a matrix got its input.
struct Watch<'a> {
    store: &'a ExpertStore,
    events: Vec<(String, u64)>,
}

impl Observe for Watch<'_> {
    fn matmul_input(&mut self, site: Site<'_>, _: &[f32], _: usize) {
        if site.tensor.ends_with("ffn_up_shexp") || site.tensor.ends_with("ffn_gate_inp") {
            self.events.push((site.tensor.to_owned(), self.store.asked()));
        }
    }

    fn routed(&mut self, layer: usize, _: &Routing) {
        self.events.push((format!("routed {layer}"), self.store.asked()));
    }
}

#[test]
fn what_is_missing_is_asked_for_before_the_shared_expert() {
    // No slots of their own: every expert of every token is missing.
    let options = Options { memory: Some(MemoryLimit::Experts(0)), look_ahead: 1, ..Options::default() };
    let engine = engine(options).unwrap();
    let mut watch = Watch { store: &engine.model.weights.experts, events: vec![] };
    let row = Row { sequence: 0, position: 0, token: 3, wants: Wants::Logits };
    engine.batch(1).unwrap().observed_step(&[row], &mut watch).unwrap();
    let missing = u64::from(USED) * 3; // three matrices each
    let event = |name: &str, asked| (name.to_owned(), asked);
    let expected = [
        event("blk.0.ffn_gate_inp", 0),
        event("routed 0", 0),
        event("blk.0.ffn_up_shexp", missing),
        event("blk.1.ffn_gate_inp", missing),
        event("routed 1", missing),
        event("blk.1.ffn_up_shexp", 2 * missing),
    ];
    assert_eq!(watch.events, expected);
}
