//! Each step against a plain translation of Hugging Face's processor, and the chain as a whole.

use super::*;
use proptest::prelude::*;

const EXCLUDED: f32 = f32::NEG_INFINITY;

/// The scores after the named step alone.
fn step(name: &str, sampling: &Sampling, logits: &[f32], history: &[u32], answer: usize) -> Vec<f32> {
    let mut scores = logits.to_vec();
    let mut scratch = Buffers { counts: vec![0; logits.len()], ..Default::default() };
    let mut turn = Turn {
        scores: &mut scores,
        history,
        answer: &history[answer..],
        allowed: None,
        scratch: &mut scratch,
        rest: None,
    };
    (STEPS.iter().find(|step| step.name == name).unwrap().apply)(sampling, &mut turn);
    assert!(scratch.counts.iter().all(|&count| count == 0));
    scores
}

fn kept(scores: &[f32]) -> Vec<usize> {
    (0..scores.len()).filter(|&token| scores[token] > EXCLUDED).collect()
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(EXCLUDED, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Tokens in ascending order of `key`, of equal ones the higher id first.
fn ascending(count: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).rev().collect();
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
    order
}

fn top_p_reference(logits: &[f32], p: f32) -> Vec<usize> {
    let probabilities = softmax(logits);
    let order = ascending(logits.len(), |token| f64::from(logits[token]));
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for (place, &token) in order.iter().enumerate() {
        sum += probabilities[token];
        if (sum > 1.0 - f64::from(p) || place + 1 == order.len()) && logits[token] > EXCLUDED {
            kept.push(token);
        }
    }
    kept.sort_unstable();
    kept
}

fn typical_reference(logits: &[f32], mass: f32) -> Vec<usize> {
    let probabilities = softmax(logits);
    let entropy: f64 = probabilities.iter().filter(|&&p| p > 0.0).map(|&p| -p * p.ln()).sum();
    let distance = |token: usize| (-probabilities[token].ln() - entropy).abs();
    let order = ascending(logits.len(), distance);
    let mut sum = 0.0;
    let last = order.iter().position(|&token| {
        sum += probabilities[token];
        sum >= f64::from(mass)
    });
    let mut kept = order[..=last.unwrap_or(order.len() - 1)].to_vec();
    kept.sort_unstable();
    kept
}

/// Distinct scores with gaps, so that rounding cannot decide.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let distinct = proptest::collection::btree_set(-400i32..400, 1..200);
    (distinct, 1u32..50).prop_flat_map(|(values, spread)| {
        let scores: Vec<f32> = values.into_iter().map(|value| value as f32 / spread as f32).collect();
        Just(scores).prop_shuffle()
    })
}

proptest! {
    #[test]
    fn top_k_keeps_the_best(logits in logits(), k in 1u32..220) {
        let sampling = Sampling { top_k: k, ..Sampling::neutral() };
        let order = ascending(logits.len(), |token| f64::from(logits[token]));
        let mut expected = order[logits.len().saturating_sub(k as usize)..].to_vec();
        expected.sort_unstable();
        prop_assert_eq!(kept(&step("top-k", &sampling, &logits, &[], 0)), expected);
    }

    #[test]
    fn top_p_drops_the_tail(mut logits in logits(), p in 0.001f32..0.999, excluded: bool) {
        if excluded && logits.len() > 1 {
            logits[0] = EXCLUDED;
        }
        let sampling = Sampling { top_p: p, ..Sampling::neutral() };
        let (found, expected) = (kept(&step("top-p", &sampling, &logits, &[], 0)), top_p_reference(&logits, p));
        // One token may go either way where the sums differ in the last bits.
        let probabilities = softmax(&logits);
        let mass = |tokens: &[usize]| tokens.iter().map(|&token| probabilities[token]).sum::<f64>();
        let close = (mass(&found) - mass(&expected)).abs() < 1e-6;
        prop_assert!(found == expected || close, "{:?} {:?}", found, expected);
    }

    #[test]
    fn min_p_compares_with_the_best(logits in logits(), p in 0.001f32..1.0) {
        let sampling = Sampling { min_p: p, ..Sampling::neutral() };
        let probabilities = softmax(&logits);
        let limit = probabilities.iter().copied().fold(0.0, f64::max) * f64::from(p);
        for (token, score) in step("min-p", &sampling, &logits, &[], 0).iter().enumerate() {
            let clear = (probabilities[token] / limit - 1.0).abs() > 1e-4;
            prop_assert!(!clear || (*score > EXCLUDED) == (probabilities[token] > limit), "{token}");
        }
    }

    #[test]
    fn typical_keeps_the_expected(logits in logits(), mass in 0.05f32..0.99) {
        let sampling = Sampling { typical_p: mass, ..Sampling::neutral() };
        let (found, expected) = (kept(&step("typical-p", &sampling, &logits, &[], 0)), typical_reference(&logits, mass));
        let differ = found.iter().filter(|token| !expected.contains(token)).count()
            + expected.iter().filter(|token| !found.contains(token)).count();
        // Two tokens on either side of the expectation can be equally far from it.
        prop_assert!(differ <= 1, "{:?} {:?}", found, expected);
    }

    #[test]
    fn any_settings_and_logits_choose_a_token_or_say_why_not(
        bits in proptest::collection::vec(any::<u32>(), 1..50),
        history in proptest::collection::vec(0u32..60, 0..20),
        temperature in prop_oneof![Just(0.0f32), 1e-30f32..2.0],
        (top_k, top_p, min_p, typical_p) in (0u32..60, 1e-6f32..1.0, 0f32..1.0, 1e-6f32..1.0),
        (repetition_penalty, presence_penalty) in (1e-30f32..1e30, -1e38f32..1e38),
    ) {
        let sampling = Sampling {
            temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty,
            seed: Some(1), ..Sampling::neutral()
        };
        let logits: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let chosen = Sampler::new(sampling, logits.len()).unwrap().sample(&logits, &history);
        let possible = logits.iter().any(|logit| *logit > EXCLUDED);
        prop_assert_eq!(chosen.is_ok(), possible);
        prop_assert!(chosen.is_err() || logits[chosen.unwrap() as usize] > EXCLUDED);
    }
}

#[test]
fn penalties_and_bias_by_hand() {
    let logits = [2.0, -2.0, 1.0, 0.5, EXCLUDED];
    let history = [0, 1, 0, 2, 2, 9, 4];
    let neutral = Sampling::neutral;
    let cases = [
        ("penalties", Sampling { repetition_penalty: 2.0, ..neutral() }, 0, [1.0, -4.0, 0.5, 0.5, EXCLUDED]),
        (
            "penalties",
            Sampling { repetition_penalty: 2.0, repeat_window: Some(4), ..neutral() },
            0,
            [2.0, -2.0, 0.5, 0.5, EXCLUDED],
        ),
        ("penalties", Sampling { repetition_penalty: 2.0, repeat_window: Some(0), ..neutral() }, 0, logits),
        ("penalties", Sampling { presence_penalty: 0.5, ..neutral() }, 2, [1.5, -2.0, 0.5, 0.5, EXCLUDED]),
        ("penalties", Sampling { frequency_penalty: 0.5, ..neutral() }, 2, [1.5, -2.0, 0.0, 0.5, EXCLUDED]),
        (
            "logit-bias",
            Sampling { logit_bias: vec![(0, EXCLUDED), (3, 1.0), (99, 1.0)], ..neutral() },
            0,
            [EXCLUDED, -2.0, 1.0, 1.5, EXCLUDED],
        ),
        ("temp", Sampling { temperature: 0.5, ..neutral() }, 0, [0.0, -8.0, -2.0, -3.0, EXCLUDED]),
    ];
    for (name, sampling, answer, expected) in cases {
        assert_eq!(step(name, &sampling, &logits, &history, answer), expected, "{sampling:?}");
    }
}

#[test]
fn top_k_keeps_equals() {
    let sampling = Sampling { top_k: 2, ..Sampling::neutral() };
    assert_eq!(kept(&step("top-k", &sampling, &[1.0, 3.0, 1.0, 0.0], &[], 0)), [0, 1, 2]);
}

#[test]
fn greedy_takes_the_first_best() {
    let mut sampler = Sampler::new(Sampling::greedy(), 4).unwrap();
    assert_eq!(sampler.sample(&[1.0, f32::NAN, 2.0, 2.0], &[]).unwrap(), 2);
    assert_eq!(sampler.sample(&[f32::INFINITY, 1.0, f32::INFINITY, 0.0], &[]).unwrap(), 0);
    assert!(sampler.sample(&[f32::NAN, EXCLUDED], &[]).is_err());
    let biased = Sampling { logit_bias: vec![(2, EXCLUDED)], top_p: 0.01, ..Sampling::greedy() };
    assert_eq!(Sampler::new(biased, 4).unwrap().sample(&[1.0, 0.0, 2.0, 1.5], &[]).unwrap(), 3);
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0f32, 1.0, -1.0, 2.0, 0.5, EXCLUDED, -3.0];
    let expected = softmax(&logits);
    let mut sampler = Sampler::new(Sampling { seed: Some(11), ..Sampling::neutral() }, logits.len()).unwrap();
    const DRAWS: usize = 50_000;
    let mut counts = [0usize; 7];
    (0..DRAWS).for_each(|_| counts[sampler.sample(&logits, &[]).unwrap() as usize] += 1);
    assert_eq!(counts[5], 0);
    let square = |(&count, &p): (&usize, &f64)| {
        let mean = p * DRAWS as f64;
        if mean == 0.0 { 0.0 } else { (count as f64 - mean).powi(2) / mean }
    };
    let chi_square: f64 = counts.iter().zip(&expected).map(square).sum();
    // 5 degrees of freedom: 20.5 is exceeded once in a thousand.
    assert!(chi_square < 20.5, "{chi_square} {counts:?}");
}

#[test]
fn the_same_seed_chooses_the_same() {
    let logits: Vec<f32> = (0..1000).map(|token| ((token * 7919) % 1000) as f32 / 100.0).collect();
    let draw = |seed| {
        let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..Sampling::default() }, 1000).unwrap();
        (0..12).map(|_| sampler.sample(&logits, &[]).unwrap()).collect::<Vec<_>>()
    };
    // The same on every machine: a change here changes what people get for their seeds.
    assert_eq!(draw(1), [815, 754, 112, 743, 198, 593, 988, 531, 100, 138, 926, 336]);
    assert_ne!(draw(1), draw(2));
    let clock = || Sampler::new(Sampling::default(), 1).unwrap().seed();
    assert_ne!(clock(), clock());
}

#[test]
fn every_step_can_be_switched_on_and_off() {
    let changed = Sampling {
        temperature: 0.5,
        top_k: 1,
        top_p: 0.5,
        min_p: 0.5,
        typical_p: 0.5,
        presence_penalty: 1.0,
        logit_bias: vec![(0, 1.0)],
        ..Sampling::neutral()
    };
    let mask = Mask::none(1);
    for step in STEPS {
        let is_on = (step.is_on)(&changed, Some(&mask)) && !(step.is_on)(&Sampling::neutral(), None);
        assert!(is_on, "{}", step.name);
    }
}

/// A grammar's tokens alone are left, for the best one and for draws.
#[test]
fn only_allowed_tokens_are_chosen() {
    let mut mask = Mask::none(4);
    [1, 3].into_iter().for_each(|token| mask.allow(token));
    let logits = [9.0, 1.0, 8.0, 2.0];
    let mut greedy = Sampler::new(Sampling::greedy(), 4).unwrap();
    assert_eq!(greedy.sample_among(&logits, &[], Some(&mask)).unwrap(), 3);
    assert_eq!(greedy.sample_among(&logits, &[], None).unwrap(), 0);
    let mut drawn = Sampler::new(Sampling { seed: Some(1), ..Sampling::neutral() }, 4).unwrap();
    let all: Vec<u32> = (0..50).map(|_| drawn.sample_among(&logits, &[], Some(&mask)).unwrap()).collect();
    assert!(all.iter().all(|token| [1, 3].contains(token)) && all.contains(&1));
    assert!(greedy.sample_among(&logits, &[], Some(&Mask::none(4))).is_err());
}

/// All tokens from the score of the `wanted`-th best on, as a backend finds them.
fn best_of(logits: &[f32], wanted: usize, temperature: f32) -> (Vec<u32>, Vec<f32>, f32, f32) {
    let clean = |logit: f32| if logit.is_nan() { EXCLUDED } else { logit.min(f32::MAX) };
    let mut ranked: Vec<f32> = logits.iter().copied().map(clean).collect();
    ranked.sort_by(|a, b| b.total_cmp(a));
    let bound = ranked[wanted - 1];
    let total = ranked.iter().map(|score| f64::from((score - ranked[0]) / temperature).exp()).sum::<f64>();
    let found = (0u32..).zip(logits.iter().copied().map(clean));
    let (tokens, scores) = found.filter(|&(_, score)| score >= bound && score > EXCLUDED).unzip();
    (tokens, scores, bound, total as f32)
}

/// Where the best tokens decide, they decide as all do; where others could be chosen, they decide nothing.
#[test]
fn the_best_tokens_choose_as_all_do() {
    let neutral = Sampling::neutral;
    let settings = [
        Sampling::greedy(),
        Sampling::default(),
        Sampling { temperature: 0.5, ..Sampling::default() },
        Sampling { top_k: 40, ..neutral() },
        Sampling { top_k: 40, temperature: 1.5, top_p: 0.9, min_p: 0.01, ..neutral() },
        Sampling { top_p: 0.8, ..neutral() },
        Sampling { min_p: 0.1, ..neutral() },
    ];
    let mut random = Random::new(7);
    for sampling in settings {
        let (mut decided, mut others) = (0, 0);
        for seed in 0..400 {
            let sharpness = 1.0 + (seed % 8) as f32;
            let logits: Vec<f32> =
                (0..1000).map(|_| (random.unit() as f32 * 2.0).powi(3) * sharpness).collect();
            let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..sampling.clone() }, 1000).unwrap();
            let Wants::Best { temperature } = sampler.wants() else { panic!("{sampling:?}") };
            let (tokens, scores, bound, total) = best_of(&logits, 64, temperature);
            let best = Best { tokens: &tokens, logits: &scores, bound, total };
            let Some(chosen) = sampler.sample_best(&best) else {
                // Nothing was drawn.
                let mut whole =
                    Sampler::new(Sampling { seed: Some(seed), ..sampling.clone() }, 1000).unwrap();
                assert_eq!(sampler.sample(&logits, &[]).unwrap(), whole.sample(&logits, &[]).unwrap());
                continue;
            };
            decided += 1;
            let mut whole = Sampler::new(Sampling { seed: Some(seed), ..sampling.clone() }, 1000).unwrap();
            others += usize::from(chosen != whole.sample(&logits, &[]).unwrap());
        }
        assert!(decided > 100 && others <= 1, "{sampling:?}: {decided} decided, {others} otherwise");
    }
}

#[test]
fn the_best_tokens_do_not_decide_what_they_cannot() {
    let logits: Vec<f32> = (0..1000).map(|i| i as f32 * 1e-4).collect();
    let (tokens, scores, bound, total) = best_of(&logits, 64, 1.0);
    let best = Best { tokens: &tokens, logits: &scores, bound, total };
    for sampling in [
        Sampling { top_k: 65, ..Sampling::neutral() },
        Sampling { top_p: 0.95, ..Sampling::neutral() },
        Sampling { min_p: 0.5, ..Sampling::neutral() },
    ] {
        assert_eq!(Sampler::new(sampling.clone(), 1000).unwrap().sample_best(&best), None, "{sampling:?}");
    }
    let none = Best { tokens: &[], logits: &[], ..best };
    assert_eq!(Sampler::new(Sampling::greedy(), 1000).unwrap().sample_best(&none), None);
    for sampling in [
        Sampling::neutral(),
        Sampling { repetition_penalty: 1.1, ..Sampling::default() },
        Sampling { typical_p: 0.9, ..Sampling::default() },
        Sampling { logit_bias: vec![(3, 1.0)], ..Sampling::greedy() },
    ] {
        assert_eq!(Sampler::new(sampling.clone(), 1000).unwrap().wants(), Wants::Logits, "{sampling:?}");
    }
}
