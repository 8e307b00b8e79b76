//! Once its buffers have grown, a token takes no new memory: allocations are counted for every architecture.

#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "nothing is rewritten here")]
mod fixtures;

use fixtures::{fixture, options};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Options};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FIXTURES: [&str; 25] = [
    "bailingmoe2",
    "deepseek2",
    "deepseek3",
    "deepseek4",
    "gemma3-linear",
    "gemma4",
    "german-moe-bias",
    "glm-dsa",
    "glm4moe",
    "gpt-oss",
    "granitehybrid",
    "granitemoe",
    "lfm2moe",
    "llama-dense",
    "minimax-m2",
    "mixtral",
    "moe-124m-top2",
    "nemotron-h-moe",
    "olmoe",
    "qwen2moe",
    "qwen2-tied",
    "qwen35moe",
    "qwen3moe-mixed",
    "qwen3next",
    "tachyon-shared1",
];

/// The fewest allocations of four tokens in a row, sampling with them: what grows now and then, and what another thread
/// does once after the start, does not come with every four.
fn allocations(engine: &Engine) -> usize {
    let mut session = engine.session().unwrap();
    let sampling = Sampling { seed: Some(1), ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, engine.config().vocab_size).unwrap();
    session.extend(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
    let mut four_tokens = || {
        let region = Region::new(ALLOCATOR);
        for _ in 0..4 {
            session.extend(&[5]).unwrap();
            sampler.sample(session.logits(), session.tokens()).unwrap();
        }
        let change = region.change();
        change.allocations + change.reallocations
    };
    (0..6).map(|_| four_tokens()).min().unwrap_or_default()
}

#[test]
fn a_token_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = vec![];
    for name in FIXTURES {
        let file = fixture(name, folder.path());
        // A second thread's scratch would grow whenever it first gets a task.
        let options = Options { threads: Some(1), context: Some(32), ..options("f16") };
        let engine = Engine::open(&file, options).unwrap();
        match allocations(&engine) {
            0 => {}
            count => found.push(format!("{name}: {count}")),
        }
    }
    assert!(found.is_empty(), "allocations of four tokens:\n{}", found.join("\n"));
}
