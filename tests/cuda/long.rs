//! Texts so long that several blocks share a head's positions.

use super::{difference, fixture, fixtures, inside};
use moewe_engine::cuda::CHUNK;
use moewe_engine::session::{DeviceChoice, Engine, Options, Session};

/// Largest difference from the processor, relative to its largest logit.
const TOLERANCE: f32 = 2e-5;

#[test]
#[ignore = "takes minutes: .ci/deep runs it"]
fn long_texts_are_read_in_chunks() {
    inside("long::chunks", &[]);
}

/// A text that begins a second chunk, by one block for each head; then its last tokens by themselves, by a block for each
/// chunk: the same bits, and near the processor's.
#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn chunks() {
    let folder = tempfile::tempdir().unwrap();
    let length = CHUNK + 6;
    let tokens = fixtures::tokens(length, 7);
    for name in ["gpt-oss", "deepseek2"] {
        let file = fixture(name, folder.path());
        let [card, cpu] = [DeviceChoice::Cuda(0), DeviceChoice::Cpu].map(|device| {
            let options =
                Options { device, batch: length, context: Some(2 * CHUNK), ..fixtures::options("f32") };
            Engine::open(&file, options).unwrap()
        });
        // The logits of the last four tokens.
        let read = |session: &mut Session<'_>, tokens: &[u32], most: usize| {
            let mut rows: Vec<Vec<f32>> = vec![];
            for some in tokens.chunks(most) {
                let keep = |_: usize, row: &[f32]| {
                    rows.push(row.to_vec());
                    Ok(())
                };
                session.extend_with_logits(some, keep).unwrap();
            }
            rows.split_off(rows.len() - 4).concat()
        };
        let mut session = card.session().unwrap();
        let whole = read(&mut session, &tokens, length);
        assert_eq!(session.rewind(length - 4), length - 4);
        assert!(
            whole == read(&mut session, &tokens[length - 4..], 1),
            "{name}: other bits by several blocks"
        );
        let error = difference(&whole, &read(&mut cpu.session().unwrap(), &tokens, length));
        assert!(error <= TOLERANCE, "{name}: {error:.1e}");
    }
}
