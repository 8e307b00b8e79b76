//! What is not trained takes the memory of its values and nothing else: no gradients, no moments, no second copy.
//!
//! One test in a process of its own, since its allocator counts what is held and the most that was held.

#![allow(clippy::print_stdout, reason = "the figures are for `--nocapture`")]
#![allow(unsafe_code, reason = "an allocator is unsafe to write")]

use candle_core::{DType, Device};
use moewe_train::model::{Batch, Config, Lora, Model, Pass, Spec, Target, Trained, Values};
use moewe_train::optimizer::{AdamW, AdamWSettings};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting.
struct Counting {
    held: AtomicUsize,
    most: AtomicUsize,
}

// SAFETY: everything is the system's allocator; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = self.held.fetch_add(layout.size(), Relaxed) + layout.size();
        self.most.fetch_max(held, Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.held.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `place` came from the system's allocator with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting { held: AtomicUsize::new(0), most: AtomicUsize::new(0) };

/// The most memory beyond what was there that two steps take, in shares of the model's F32 values.
fn peak(trained: &Trained, stored: DType) -> f64 {
    let config = json!({"model_type": "mixtral", "vocab_size": 4000, "hidden_size": 512, "intermediate_size": 1024,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "num_local_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 64});
    let config = Config::from_json(config).unwrap();
    let total = config.counts().0 as f64 * 4.0;
    let before = ALLOCATOR.held.load(Relaxed);
    let values = |spec: &Spec| Ok(Values { numbers: vec![0.01; spec.count()], stored });
    let mut model = Model::of(config, trained, (DType::F32, &Device::Cpu), values).unwrap();
    model.begin_adapters(1).unwrap();
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip: 1.0 };
    let mut optimizer = AdamW::new(settings, &model).unwrap();
    let tokens: Vec<u32> = (0..16).collect();
    ALLOCATOR.most.store(ALLOCATOR.held.load(Relaxed), Relaxed); // loading is another matter
    for _ in 0..2 {
        model.clear_gradients().unwrap();
        let batch = Batch { tokens: &tokens, rows: 1, packing: None };
        model.forward_backward(batch, &Pass::evaluation()).unwrap();
        optimizer.step(&mut model, 1e-4).unwrap();
    }
    (ALLOCATOR.most.load(Relaxed) - before) as f64 / total
}

#[test]
fn frozen_weights_have_no_gradients() {
    let targets = vec![Target::Attention, Target::Experts];
    let lora = Lora { targets, rank: 4, alpha: 8.0, rslora: false, dora: false, dropout: 0.0 };
    let adapters_16 = peak(&Trained::Lora(lora.clone()), DType::BF16);
    let adapters = peak(&Trained::Lora(lora), DType::F32);
    let router = peak(&Trained::Router, DType::F32);
    let all = peak(&Trained::All, DType::F32);
    println!("of the values in F32: {adapters_16:.2} {adapters:.2} {router:.2} {all:.2}");
    assert!(adapters_16 < 0.85, "adapters of a model in BF16 take {adapters_16:.2} of it in F32");
    assert!(adapters < 1.25, "adapters take {adapters:.2} of the model");
    assert!(router < 1.25, "routers take {router:.2} of the model");
    assert!(all > 3.9, "everything takes values, gradients and two moments: {all:.2}");
    assert!(all < 4.5, "and nothing else: {all:.2}");
}
