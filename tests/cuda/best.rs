//! The best tokens of a step, found on the card.

use super::fixtures::{self, fixture};
use super::inside;
use moewe_engine::cuda::{Device, Kernels, Rows, tokens_of};
use moewe_engine::model::{Row, Wants};
use moewe_engine::session::{DeviceChoice, Engine, Options};

/// The best tokens are found on the card, and a choice fetches no logits.
#[test]
fn the_best_tokens_are_found_on_the_card() {
    inside("best::best_tokens", &[]);
}

#[test]
#[ignore = "is run with an emulated driver by the test above"]
fn best_tokens() {
    let kernels = Kernels::load(Device::open(0).unwrap(), &[]).unwrap();
    let device = kernels.device();
    // Few strands, fewer than tokens that are wanted, and many; most rows end within a strand.
    for width in [20, 100, 1999, 50_257] {
        let mut state = 1u64;
        let mut logits: Vec<f32> = (0..3 * width).map(|_| random(&mut state) * 9.0).collect();
        (logits[7], logits[9], logits[11]) = (f32::NAN, f32::NEG_INFINITY, 8.999);
        logits[width + 5] = f32::INFINITY;
        logits[2 * width..].fill(2.5); // more equal ones than there is room for
        logits[3 * width - 1] = 3.0;
        let temperatures = [0.7f32, 1.0, 2.0];
        let (mut rows, mut tops, mut best) = (Rows::new(0), Rows::new(0), Rows::new(0));
        kernels.resize(&mut rows, 3, width);
        device.copy_now(rows.place(), &bytes_of(&logits)).unwrap();
        let places = device.upload(&bytes_of(&temperatures)).unwrap();
        kernels.best(&rows, places.address(), &mut tops, &mut best);
        kernels.take_failure().unwrap();
        best.fetch(device).unwrap();
        for (row, (logits, temperature)) in logits.chunks(width).zip(temperatures).enumerate() {
            let clean = |logit: f32| if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
            let scores: Vec<f32> = logits.iter().copied().map(clean).collect();
            let Some((ids, found, bound, total)) = tokens_of(best.fetched(row).unwrap()) else {
                assert!(row == 2 && width > 1000, "{width}: no room");
                continue;
            };
            let expected = (0u32..).zip(&scores).filter(|(_, score)| **score >= bound && score.is_finite());
            let expected: Vec<(u32, f32)> = expected.map(|(id, score)| (id, *score)).collect();
            assert_eq!(ids.iter().copied().zip(found.iter().copied()).collect::<Vec<_>>(), expected);
            assert!(
                (row < 2 || width < 1000) && ids.len() >= width.div_ceil(64).min(64),
                "{width}: {} found",
                ids.len()
            );
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights = scores.iter().map(|score| f64::from((score - highest) / temperature).exp());
            let sum: f64 = weights.sum();
            assert!((f64::from(total) - sum).abs() <= 1e-5 * sum, "{width}: {total} instead of {sum}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let options = Options { device: DeviceChoice::Cuda(0), context: Some(64), ..fixtures::options("f32") };
    let engine = Engine::open(fixture("glm4moe", folder.path()), options).unwrap();
    let (mut whole, mut some) = (engine.batch(1).unwrap(), engine.batch(1).unwrap());
    for (position, token) in fixtures::tokens(6, 3).into_iter().enumerate() {
        let row = |wants| Row { sequence: 0, position, token, wants };
        whole.step(&[row(Wants::Logits)]).unwrap();
        some.step(&[row(Wants::Best { temperature: 1.0 })]).unwrap();
        let logits = whole.logits(0);
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let best = some.best(0).unwrap();
        let place = best.logits.iter().position(|&logit| logit == highest).unwrap();
        assert_eq!(logits[best.tokens[place] as usize], highest);
        assert!(whole.best(0).is_none());
        some.fetch().unwrap();
        assert_eq!(some.logits(0), logits);
    }
}

/// From -1 to 1.
fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

pub(super) fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
