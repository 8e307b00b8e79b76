//! The best formats within a budget of bits per weight.
//!
//! The noise that a quantized matrix adds to its output is, relative to that output, about the relative error of its
//! weights, whatever the matrix's size. So the sum over all matrices of `weight of the role * relative error` is made
//! small under the sum of all bits: small matrices (keys, values, shared experts) get many bits, stacks of experts few.
//! The minimum is found by a price per bit (a Lagrange multiplier), what is left is spent on the best next step.

use super::question::{Choice, Measure, Question, by_name, fits, is_quantizable, plain};
use super::role::Role;
use moewe_engine::gguf::TensorName;
use moewe_engine::quant::Format;
use rayon::prelude::*;

/// Formats to choose from, where their blocks divide the rows.
const LADDER: &[&str] = &[
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K",
    "Q8_0",
];
/// The same for rows that blocks of 256 do not divide.
const SHORT_LADDER: &[&str] = &["Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"];

/// Most bits per weight of a level, all tensors together.
pub fn limit_of(level: u32) -> Option<f64> {
    let limits = [2.9, 3.7, 4.8, 5.7, 6.7, 7.7, 8.6]; // of 2 to 8
    limits.get(level.checked_sub(2)? as usize).copied()
}

/// One way to write a tensor.
#[derive(Clone, Copy)]
struct Rung {
    format: &'static Format,
    bits: f64, // of the whole tensor
    cost: f64, // weighted error
}

/// Formats for all tensors, those in `fixed` given.
pub(super) fn choose(
    questions: &[Question],
    bits: f64,
    fixed: &[Option<Choice>],
    measure: &Measure,
) -> Vec<Choice> {
    let layers = layers_of(questions);
    let mut ladders: Vec<Vec<Rung>> = questions
        .par_iter()
        .zip(fixed)
        .enumerate()
        .map(|(i, (question, fixed))| match fixed {
            Some(choice) => vec![rung(question, choice.format, 0.0)],
            None => ladder(question, layers, |format| measure(i, format)),
        })
        .collect();
    let budget = bits * questions.iter().map(|question| question.weights() as f64).sum::<f64>();
    if smallest(&ladders) > budget {
        ladders.iter_mut().for_each(|ladder| drop_below(ladder, bits.floor()));
    }
    let places = climb(&ladders, budget);
    ladders.iter().zip(places).map(|(ladder, place)| plain(ladder[place].format)).collect()
}

/// The noise that these formats add, as the budget weighs it: the relative error of each matrix times what that costs.
pub(crate) fn noise(questions: &[Question], choices: &[Choice], measure: &Measure) -> f64 {
    let layers = layers_of(questions);
    let noise = |(i, question): (usize, &Question)| match is_quantizable(*question) {
        true => weight_of(question, layers) * measure(i, choices[i].format),
        false => 0.0,
    };
    questions.par_iter().enumerate().map(noise).sum()
}

fn layers_of(questions: &[Question]) -> usize {
    questions
        .iter()
        .filter_map(|question| TensorName::of(question.name).layer)
        .max()
        .map_or(1, |last| last + 1)
}

/// How much a relative error in this matrix matters: as measured, or against one in the gates of experts. A layer adds
/// only its share to the residual stream, so what stands outside of layers counts as often as there are layers. The
/// figures are geometric means of divergences measured with one role rounded at a time, on Möwe-mini and on SmolLM2-135M.
fn weight_of(question: &Question, layers: usize) -> f64 {
    if let Some(measured) = question.matters {
        return measured;
    }
    let in_layer = match question.role() {
        Role::Head => return 8.0 * layers as f64,
        Role::Embedding => return 5.0 * layers as f64,
        Role::Value | Role::StateInput => 2.7,
        Role::AttentionOutput | Role::StateOutput => 1.0,
        Role::Key | Role::Query => 0.6,
        Role::Down => 2.2,
        Role::Up | Role::Other => 1.0,
    };
    // Every token goes through a dense or shared network, only some through an expert.
    if question.name.contains("_exps") { in_layer } else { 1.6 * in_layer }
}

fn rung(question: &Question, format: &'static Format, cost: f64) -> Rung {
    Rung { format, bits: question.weights() as f64 * format.bits_per_weight(), cost }
}

/// The ways to write a tensor that are worth their bits: each with more bits and less error than the one before.
fn ladder(question: &Question, layers: usize, error: impl Fn(&'static Format) -> f64) -> Vec<Rung> {
    if !is_quantizable(*question) {
        return vec![rung(question, by_name("F32"), 0.0)];
    }
    let weight = weight_of(question, layers);
    let original = question.original().map(|stored| rung(question, stored, 0.0));
    let usable = |names: &[&'static str]| -> Vec<Rung> {
        let formats = names.iter().map(|name| by_name(name)).filter(|format| fits(*question, format));
        formats.map(|format| rung(question, format, weight * error(format))).collect()
    };
    let is_long = fits(*question, by_name(LADDER[0]));
    let mut rungs = usable(if is_long { LADDER } else { SHORT_LADDER });
    if let Some(original) = original {
        rungs.retain(|rung| rung.bits < original.bits);
        rungs.push(original);
    }
    if rungs.is_empty() {
        return vec![rung(question, by_name("F16"), 0.0)];
    }
    rungs.sort_by(|a, b| a.bits.total_cmp(&b.bits));
    hull(rungs)
}

/// Only rungs on the lower convex hull of error over bits can be a minimum for any price.
fn hull(rungs: Vec<Rung>) -> Vec<Rung> {
    let mut kept: Vec<Rung> = vec![];
    for rung in rungs {
        if kept.last().is_some_and(|last| rung.cost >= last.cost) {
            continue;
        }
        while let [.., before, last] = kept[..]
            && gain(&before, &last) <= gain(&last, &rung)
        {
            kept.pop();
        }
        kept.push(rung);
    }
    kept
}

/// Error saved per bit from one rung to the next.
fn gain(from: &Rung, to: &Rung) -> f64 {
    (from.cost - to.cost) / (to.bits - from.bits).max(f64::MIN_POSITIVE)
}

/// Bits of the smallest file.
fn smallest(ladders: &[Vec<Rung>]) -> f64 {
    ladders.iter().map(|ladder| ladder[0].bits).sum()
}

/// Takes away the rungs with fewer bits per weight than the level: where the rows of some matrices are too short for a
/// budget, squeezing the others does not reach it and would only ruin them.
fn drop_below(ladder: &mut Vec<Rung>, level: f64) {
    let below = ladder.iter().take_while(|rung| rung.format.bits_per_weight() < level).count();
    ladder.drain(..below.min(ladder.len() - 1));
}

/// Climbs from the lowest rungs, always the step that saves most per bit, while the budget lasts. On convex ladders
/// this is what a falling price per bit does; at the end smaller steps fill what a large one would overrun.
fn climb(ladders: &[Vec<Rung>], budget: f64) -> Vec<usize> {
    let mut places = vec![0; ladders.len()];
    let mut spent = smallest(ladders);
    loop {
        let step = |(i, &place): (usize, &usize)| {
            let (from, to) = (&ladders[i][place], ladders[i].get(place + 1)?);
            let fits = spent + to.bits - from.bits <= budget;
            fits.then(|| (i, gain(from, to)))
        };
        let best =
            places.iter().enumerate().filter_map(step).max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let Some((i, _)) = best else { return places };
        spent += ladders[i][places[i] + 1].bits - ladders[i][places[i]].bits;
        places[i] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors of Gaussian weights, about four times less per bit.
    fn error(_: usize, format: &'static Format) -> f64 {
        4f64.powf(-format.bits_per_weight())
    }

    fn questions() -> Vec<Question<'static>> {
        let question = |name, shape, is_head| Question {
            name,
            shape,
            stored: None,
            kept: None,
            is_original: false,
            is_head,
            matters: None,
        };
        vec![
            question("token_embd.weight", &[8192, 256], false),
            question("blk.0.attn_norm.weight", &[256], false),
            question("blk.0.attn_v.weight", &[128, 256], false),
            question("blk.0.ffn_up_exps.weight", &[8, 256, 256], false),
            question("blk.0.ffn_down_exps.weight", &[8, 256, 256], false),
            question("blk.0.ffn_up_shexp.weight", &[96, 96], false),
            question("output.weight", &[8192, 256], true),
        ]
    }

    fn average(questions: &[Question], choices: &[Choice]) -> f64 {
        let weights: u64 = questions.iter().map(Question::weights).sum();
        let bits = |(q, c): (&Question, &Choice)| q.weights() as f64 * c.format.bits_per_weight();
        questions.iter().zip(choices).map(bits).sum::<f64>() / weights as f64
    }

    #[test]
    fn levels_keep_their_budget_and_small_matrices_get_more() {
        let questions = questions();
        let mut before = 0.0;
        for level in 2..=8 {
            let limit = limit_of(level).unwrap();
            let choices = choose(&questions, limit, &[None; 7], &error);
            let bits = average(&questions, &choices);
            assert!(bits <= limit && bits > before, "{level}: {bits}");
            assert!(bits > limit - 0.8, "{level}: {bits} leaves too much");
            before = bits;
            let of = |i: usize| choices[i].format.bits_per_weight();
            assert!(of(2) >= of(3) && of(4) >= of(3) && of(6) >= of(0), "{level}");
            assert_eq!(choices[1].format.name, "F32");
        }
        assert!(limit_of(1).is_none() && limit_of(9).is_none());
    }

    #[test]
    fn what_is_given_is_kept_and_too_small_a_budget_gives_the_smallest() {
        let questions = questions();
        let mut fixed = [None; 7];
        fixed[3] = Some(plain(by_name("Q8_0")));
        let choices = choose(&questions, 2.0, &fixed, &error);
        assert_eq!(choices[3].format.name, "Q8_0");
        assert_eq!((choices[4].format.name, choices[5].format.name), ("IQ2_XXS", "Q4_0"));
        let mut fixed = [Some(plain(by_name("F16"))); 7];
        fixed[4] = None;
        let choices = choose(&questions, 3.1, &fixed, &error);
        assert_eq!(choices[4].format.name, "IQ3_XXS", "not below the level");
    }
}
