//! Many sequences of one engine: beginnings that they share, pages that they claim, and answers that do not depend on who
//! else is served.

#![allow(clippy::print_stdout, reason = "which instruction sets there were is for `--nocapture`")]

#[path = "support/fixtures.rs"]
#[allow(dead_code, reason = "nothing is rewritten here")]
mod fixtures;

use fixtures::{fixture, options, tokens};
use moewe_engine::Error;
use moewe_engine::dialogue::Reader;
use moewe_engine::generate::{Answer, Event, Generation};
use moewe_engine::model::{PAGE, Row, Wants};
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Batch, Engine, Options};
use moewe_engine::simd::Isa;
use std::path::Path;

fn engine(folder: &Path, name: &str, isa: Isa, sequences: Option<usize>) -> Engine {
    let file = fixture(name, folder);
    let options = Options { isa: Some(isa), context: Some(700), sequences, ..options("f16") };
    Engine::open(file, options).unwrap()
}

/// Appends tokens to a sequence, at most `chunk` at once; the logits of the last.
fn extend(batch: &mut Batch<'_>, sequence: usize, tokens: &[u32], chunk: usize) -> Vec<f32> {
    for part in tokens.chunks(chunk) {
        let start = batch.len(sequence);
        let row = |(i, &token): (usize, &u32)| {
            let wants = Wants::logits_if(i + 1 == part.len());
            Row { sequence, position: start + i, token, wants }
        };
        batch.step(&part.iter().enumerate().map(row).collect::<Vec<_>>()).unwrap();
    }
    batch.logits(0).to_vec()
}

/// Two conversations with a common beginning compute what they compute alone, and hold its pages once.
#[test]
fn sequences_share_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    for (name, isas) in [
        ("mixtral", Isa::available().collect()),
        ("deepseek2", vec![Isa::detect()]),
        ("glm-dsa", vec![Isa::detect()]),
    ] {
        for isa in isas {
            println!("{name} on {isa}");
            let engine = engine(folder.path(), name, isa, Some(3));
            let mut batch = engine.batch(3).unwrap();
            let (common, first, second) = (tokens(310, 1), tokens(9, 2), tokens(6, 3));
            let whole = |own: &[u32]| [&common[..300], own].concat();
            let alone = [&first[..], &second].map(|own| {
                batch.rewind(2, 0);
                extend(&mut batch, 2, &whole(own), 20)
            });
            batch.rewind(2, 0);
            assert_eq!(engine.pool().used(), 0);

            extend(&mut batch, 0, &common, 20);
            assert_eq!(engine.pool().used(), 2);
            let fork = batch.fork(0, 300);
            assert_eq!((fork.len(), engine.pool().used()), (300, 2), "{name}: nothing is copied yet");
            batch.replace(1, fork);
            let third = batch.fork(1, 300);
            assert_eq!(batch.pages_for(1, 301), 1, "the page in use is shared");
            let found = extend(&mut batch, 1, &second, 20);
            assert_eq!(engine.pool().used(), 3);
            // Who goes back to the fork writes to a page of its own, too.
            batch.rewind(0, 300);
            assert_eq!([extend(&mut batch, 0, &first, 20), found], alone, "{name} {isa}");
            assert_eq!(
                engine.pool().used(),
                4,
                "{name}: one whole page in common, and three of what follows"
            );
            drop(third);
            assert_eq!(engine.pool().used(), 3);
            batch.rewind(0, 0);
            batch.rewind(1, 0);
            assert_eq!(engine.pool().used(), 0);
        }
    }
}

/// The pool has room for the positions that were planned for, and says when it is full; what was computed stays.
#[test]
fn the_pool_ends() {
    let engine = engine(tempfile::tempdir().unwrap().path(), "mixtral", Isa::Portable, Some(2));
    let pool = engine.pool();
    assert_eq!(pool.most(), (2 * 700usize).div_ceil(PAGE) + 2);
    let mut batch = engine.batch(5).unwrap();
    for sequence in 0..4 {
        extend(&mut batch, sequence, &tokens(PAGE + 1, sequence), 64);
    }
    assert_eq!(pool.free(), 0);
    let row = Row { sequence: 4, position: 0, token: 5, wants: Wants::Nothing };
    let error = batch.step(&[row]).unwrap_err();
    assert!(matches!(error, Error::PoolFull(8)), "{error}");
    batch.rewind(2, 3);
    batch.step(&[row]).unwrap();
    assert_eq!(pool.free(), 0);
}

/// Rows of 1 to 23 sequences in one step have the bits that they have alone.
#[test]
fn company_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let others = ["qwen3moe", "deepseek2", "glm-dsa", "gpt-oss"].map(|name| (name, vec![Isa::detect()]));
    for (name, isas) in others.into_iter().chain([("mixtral", Isa::available().collect())]) {
        for isa in isas {
            println!("{name} on {isa}");
            let engine = engine(folder.path(), name, isa, None);
            let mut batch = engine.batch(23).unwrap();
            let prompts: Vec<_> = (0..23).map(|i| tokens(1 + i % 5, i)).collect();
            let next = |position: usize, sequence: usize| Row {
                sequence,
                position,
                token: (sequence * 7 + 5) as u32,
                wants: Wants::Logits,
            };
            let mut alone = vec![];
            for (sequence, prompt) in prompts.iter().enumerate() {
                extend(&mut batch, sequence, prompt, 16);
                batch.step(&[next(prompt.len(), sequence)]).unwrap();
                alone.push(batch.logits(0).to_vec());
            }
            for together in [1, 2, 3, 4, 5, 8, 15, 16, 23] {
                let rows: Vec<_> = (0..together)
                    .map(|sequence| {
                        batch.rewind(sequence, prompts[sequence].len());
                        next(prompts[sequence].len(), sequence)
                    })
                    .collect();
                batch.step(&rows).unwrap();
                for (row, alone) in alone[..together].iter().enumerate() {
                    assert!(batch.logits(row) == alone, "{name} {isa}: row {row} of {together}");
                }
            }
        }
    }
}

/// Conversations that share steps say what they say alone, each with a sampler of its own. Tokens are all that a model
/// without a tokenizer says.
#[test]
fn generations_share_steps() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path(), "mixtral", Isa::detect(), Some(3));
    let sampler = |seed| {
        let sampling = Sampling { seed: Some(seed), temperature: 1.5, ..Sampling::default() };
        Sampler::new(sampling, engine.config().vocab_size).unwrap()
    };
    let prompts: Vec<_> = (0..3).map(|i| tokens(2 + i, i)).collect();
    let limit = |i: usize| Some(5 + 3 * i);
    let alone: Vec<_> = (0..3)
        .map(|i| {
            let (mut session, mut sampler) = (engine.session().unwrap(), sampler(i as u64));
            let mut answer =
                Answer::start(&mut session, &mut sampler, &prompts[i], limit(i), Reader::plain()).unwrap();
            while answer.next_pieces().unwrap().is_some() {}
            (answer.tokens().to_vec(), answer.ending().unwrap())
        })
        .collect();
    let mut batch = engine.batch(3).unwrap();
    let mut all: Vec<_> = (0..3)
        .map(|i| {
            let prompt = &prompts[i];
            extend(&mut batch, i, &prompt[..prompt.len() - 1], 16);
            let mut sampler = sampler(i as u64);
            sampler.begin_answer(prompt.len());
            (Generation::new(&engine, prompt, limit(i), Reader::plain()), sampler)
        })
        .collect();
    loop {
        let running: Vec<_> = (0..3).filter(|&i| all[i].0.end_if_full().is_none()).collect();
        let rows: Vec<_> = running.iter().filter_map(|&i| all[i].0.next_row(i, &all[i].1)).collect();
        if rows.is_empty() {
            break;
        }
        batch.step(&rows).unwrap();
        for (row, &i) in running.iter().enumerate() {
            let (generation, sampler) = &mut all[i];
            match generation.take(sampler, &mut batch, row).unwrap() {
                Event::Said(pieces) => assert_eq!(pieces, [], "there is no tokenizer"),
                Event::Ended(ending, _) => assert_eq!(generation.ending(), Some(ending)),
            }
        }
    }
    for ((generation, _), (tokens, ending)) in all.iter().zip(&alone) {
        assert_eq!((generation.tokens(), generation.ending().unwrap()), (&tokens[..], *ending));
    }
}
