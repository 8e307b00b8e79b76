//! Routing: which experts each row goes to, with which weight, and the same sorted by expert.
//!
//! Also the German MoE GPT v8's expert capacity, as its original computes it over a whole batch.

mod router;
mod sizes;

pub(in crate::model) use router::Choosing;
pub use router::{Router, Table};
pub use sizes::{Capacity, ChosenBy, Gating, Groups, Inner, Shape, Shared};

use super::step::Row;
use crate::kernels::Dispatch;
use crate::ops::{Choice, exp, sigmoid, softmax, softplus, top_k};

/// What a layer's router has beside its matrix.
#[derive(Clone, Copy, Default)]
pub struct Weighing<'a> {
    /// Added to scores for the choice only, `(expert_count)`.
    pub choice_bias: Option<&'a [f32]>,
    /// Factor on each expert's weight, `(expert_count)`.
    pub expert_scale: Option<&'a [f32]>,
    /// What names experts by their row's token.
    pub by_token: Option<(&'a Table, &'a [Row])>,
}

/// The routing of one batch through one layer. Buffers are kept between layers.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    used: usize,
    /// `(rows, expert_used_count)`: expert and weight, the strongest first.
    choices: Vec<Choice>,
    /// Same shape: whether a capacity or a threshold dropped the entry.
    dropped: Vec<bool>,
    /// The kept entries sorted by expert.
    dispatch: Dispatch,
    scores: Vec<f32>,
    fill: Vec<u32>,
}

impl Routing {
    /// A routing that was computed elsewhere: experts and weights of each row, negative for what is left out.
    pub(super) fn of(used: usize, expert_count: usize, experts: &[i32], weights: &[f32]) -> Self {
        let choice = |(&index, &score): (&i32, &f32)| Choice { index: index.max(0) as u32, score };
        let choices: Vec<_> = experts.iter().zip(weights).map(choice).collect();
        let dropped = experts.iter().map(|expert| *expert < 0).collect();
        let mut routing = Self { used, choices, dropped, ..Self::default() };
        let expert = |slot: usize| u32::try_from(experts[slot]).ok();
        routing.dispatch.sort(expert_count, used, experts.len(), expert);
        routing
    }

    /// Active experts per row.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Rows routed.
    pub fn rows(&self) -> usize {
        self.choices.len() / self.used.max(1)
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.choices.clear();
    }

    /// The `count` strongest experts of each row, row by row.
    pub fn strongest(&self, count: usize) -> impl Iterator<Item = u32> {
        let rows = self.choices.chunks_exact(self.used.max(1));
        rows.flat_map(move |choices| choices.iter().take(count)).map(|choice| choice.index)
    }

    /// Experts and weights of a row, the strongest first.
    pub fn choices(&self, row: usize) -> &[Choice] {
        &self.choices[row * self.used..][..self.used]
    }

    /// Whether choice `choice` of a row is left out.
    pub fn is_dropped(&self, row: usize, choice: usize) -> bool {
        self.dropped[row * self.used + choice]
    }

    /// The kept entries sorted by expert.
    pub(crate) fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// Chooses experts from router logits `(rows, expert_count)`.
    pub fn route(&mut self, logits: &[f32], experts: &Shape, by: Weighing<'_>, drop: bool) {
        self.used = experts.expert_used_count;
        let rows = logits.len() / experts.expert_count;
        self.choices.clear();
        self.choices.resize(rows * self.used, Choice::default());
        let rows_of_logits = logits.chunks_exact(experts.expert_count);
        for (row, (logits, choices)) in
            rows_of_logits.zip(self.choices.chunks_exact_mut(self.used)).enumerate()
        {
            score(logits, experts.gating, &mut self.scores);
            match by.by_token {
                None => choose(experts, by, &mut self.scores, choices),
                Some((table, rows)) => take(table.of(rows[row].token), &self.scores, choices),
            }
            weigh(experts, by, choices);
        }
        self.dropped.clear();
        self.dropped.resize(rows * self.used, false);
        match experts.capacity {
            Some(capacity) if drop => self.apply_capacity(experts.expert_count, capacity.factor, rows),
            _ => {}
        }
        if experts.threshold > 0.0 {
            self.drop_below(experts.threshold);
        }
        let (choices, dropped) = (&self.choices, &self.dropped);
        let expert = |slot: usize| (!dropped[slot]).then(|| choices[slot].index);
        self.dispatch.sort(experts.expert_count, self.used, choices.len(), expert);
    }

    /// Leaves out what has a smaller share of its row's weight; the rest takes over its weight. The strongest stays.
    fn drop_below(&mut self, threshold: f32) {
        let rows = self.choices.chunks_exact_mut(self.used).zip(self.dropped.chunks_exact_mut(self.used));
        for (choices, dropped) in rows {
            let sum: f32 = choices.iter().map(|choice| choice.score).sum();
            let mut kept = 0f32;
            for (i, (choice, dropped)) in choices.iter().zip(dropped).enumerate() {
                *dropped |= i > 0 && choice.score < threshold * sum;
                kept += if *dropped { 0.0 } else { choice.score };
            }
            let factor = if kept > 0.0 { sum / kept } else { 1.0 };
            choices.iter_mut().for_each(|choice| choice.score *= factor);
        }
    }

    /// All first choices in order of rows, then all second ones …: what exceeds an expert's capacity is dropped.
    fn apply_capacity(&mut self, expert_count: usize, factor: f32, rows: usize) {
        let capacity = capacity_of(self.used, factor, rows, expert_count);
        self.fill.clear();
        self.fill.resize(expert_count, 0);
        for choice in 0..self.used {
            for row in 0..rows {
                let entry = row * self.used + choice;
                let fill = &mut self.fill[self.choices[entry].index as usize];
                self.dropped[entry] = *fill as usize >= capacity;
                *fill += 1;
            }
        }
    }
}

fn score(logits: &[f32], gating: Gating, scores: &mut Vec<f32>) {
    scores.clear();
    scores.extend_from_slice(logits);
    match gating {
        Gating::Softmax => softmax(scores),
        Gating::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        Gating::SqrtSoftplus => scores.iter_mut().for_each(|score| *score = softplus(*score).sqrt()),
        Gating::SoftmaxChosen => {}
    }
}

/// The strongest of those that are named, of equals the first.
fn take(named: &[u32], scores: &[f32], choices: &mut [Choice]) {
    let mut found = 0;
    for &index in named {
        let score = scores[index as usize];
        let place = choices[..found].partition_point(|choice| choice.score >= score);
        if place < choices.len() {
            found = (found + 1).min(choices.len());
            choices[place..found].rotate_right(1);
            choices[place] = Choice { index, score };
        }
    }
}

fn choose(experts: &Shape, by: Weighing<'_>, scores: &mut Vec<f32>, choices: &mut [Choice]) {
    let unbiased = scores.len();
    if by.choice_bias.is_none() && experts.groups.is_none() {
        top_k(scores, choices);
    } else {
        scores.extend_from_within(..);
        let choosing = &mut scores[unbiased..];
        let bias = by.choice_bias.unwrap_or_default();
        choosing.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        if let Some(groups) = experts.groups {
            leave_best(groups, choosing);
        }
        top_k(choosing, choices);
        choices.iter_mut().for_each(|choice| choice.score = scores[choice.index as usize]);
    }
}

fn weigh(experts: &Shape, by: Weighing<'_>, choices: &mut [Choice]) {
    if experts.gating == Gating::SoftmaxChosen {
        let largest = choices.iter().map(|choice| choice.score).fold(f32::NEG_INFINITY, f32::max);
        choices.iter_mut().for_each(|choice| choice.score = exp(choice.score - largest));
    }
    if experts.normalise || experts.gating == Gating::SoftmaxChosen {
        // llama.cpp's floor, the smallest normal f16, keeps all-zero sigmoids finite.
        let sum = choices.iter().map(|choice| choice.score).sum::<f32>().max(6.103_515_6e-5);
        choices.iter_mut().for_each(|choice| choice.score /= sum);
    }
    choices.iter_mut().for_each(|choice| choice.score *= experts.scale);
    if let Some(scale) = by.expert_scale {
        choices.iter_mut().for_each(|choice| choice.score *= scale[choice.index as usize]);
    }
}

/// Keeps the scores of the best groups only (DeepSeek-V3, section 2.1.2); of equal groups the first counts.
fn leave_best(groups: Groups, scores: &mut [f32]) {
    let size = scores.len() / groups.count;
    let worth = |group: &[f32]| {
        let mut best = [f32::NEG_INFINITY; 2];
        for &score in group {
            if score > best[0] {
                best = [score, best[0]];
            } else if score > best[1] {
                best[1] = score;
            }
        }
        if groups.counted == 1 || group.len() == 1 { best[0] } else { best[0] + best[1] }
    };
    let mut left = groups.count;
    while left > groups.used {
        // The worst of those that are left goes, of equal ones the last.
        let all = scores.chunks_exact(size).enumerate().filter(|(_, group)| group[0] != f32::NEG_INFINITY);
        let worst = all.map(|(i, group)| (i, worth(group))).reduce(|a, b| if b.1 <= a.1 { b } else { a });
        let Some((worst, _)) = worst else { return };
        scores[worst * size..][..size].fill(f32::NEG_INFINITY);
        left -= 1;
    }
}

/// `floor(used * factor * rows / experts)` evaluated left to right in f64, made even, at least 2.
pub(super) fn capacity_of(used: usize, factor: f32, rows: usize, expert_count: usize) -> usize {
    let capacity = (used as f64 * factor as f64 * rows as f64 / expert_count as f64).floor();
    // More than `rows` never drops a token, whatever factor a file names.
    let capacity = capacity.min(rows as f64) as usize;
    (capacity + capacity % 2).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pick;
    use crate::model::step::Wants;
    use crate::ops::Activation;

    fn experts(expert_count: usize, used: usize, gating: Gating) -> Shape {
        Shape {
            expert_count,
            expert_used_count: used,
            length: 1,
            activation: Activation::Silu,
            gating,
            chosen_by: ChosenBy::Scores,
            groups: None,
            normalise: true,
            scale: 1.0,
            shared: None,
            inner: Inner::Same,
            capacity: Some(Capacity { factor: 1.25 }),
            threshold: 0.0,
        }
    }

    #[test]
    fn capacities_of_the_original() {
        let cases = [
            (1, 8, 2),
            (9, 8, 2),
            (10, 8, 4),
            (16, 8, 6),
            (32, 8, 10),
            (100, 8, 32),
            (2048, 8, 640),
            (64, 32, 6),
        ];
        for (rows, expert_count, expected) in cases {
            assert_eq!(
                capacity_of(2, 1.25, rows, expert_count),
                expected,
                "{rows} rows, {expert_count} experts"
            );
        }
    }

    #[test]
    fn softmax_then_normalise_equals_softmax_of_the_chosen() {
        let logits = [0.3, -1.0, 2.0, 1.5];
        let (mut a, mut b) = (Routing::default(), Routing::default());
        a.route(&logits, &experts(4, 2, Gating::Softmax), Weighing::default(), false);
        b.route(&logits, &experts(4, 2, Gating::SoftmaxChosen), Weighing::default(), false);
        for (a, b) in a.choices(0).iter().zip(b.choices(0)) {
            assert!(a.index == b.index && (a.score - b.score).abs() < 1e-6);
        }
        assert_eq!(a.choices(0)[0].index, 2);
    }

    #[test]
    fn first_choices_go_before_second_ones_and_nothing_is_renormalised() {
        // Four rows, two experts, one of two: capacity max(floor(1 * 1.25 * 4 / 2), 2) = 2.
        let logits = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let mut routing = Routing::default();
        routing.route(&logits, &experts(2, 1, Gating::SoftmaxChosen), Weighing::default(), true);
        let dropped: Vec<bool> = (0..4).map(|row| routing.is_dropped(row, 0)).collect();
        assert_eq!(dropped, [false, false, true, false]);
        assert_eq!(routing.dispatch().picks(0).iter().map(|pick| pick.input).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(routing.dispatch().picks(1), [Pick { input: 3, output: 3 }]);
        assert_eq!(routing.choices(2)[0].score, 1.0);
    }

    #[test]
    fn a_choice_bias_changes_the_choice_and_not_the_weight() {
        let mut routing = Routing::default();
        let mut sigmoid = experts(3, 1, Gating::Sigmoid);
        sigmoid.normalise = false;
        let by = Weighing { choice_bias: Some(&[0.0, 5.0, 0.0]), ..Weighing::default() };
        routing.route(&[2.0, 0.0, 1.0], &sigmoid, by, false);
        assert_eq!(routing.choices(0)[0], Choice { index: 1, score: 0.5 });
    }

    #[test]
    fn a_table_names_experts_and_scores_weigh_them() {
        let table = Table { width: 2, experts: vec![0, 1, 3, 2] };
        let row = |token| Row { sequence: 0, position: 0, token, wants: Wants::Nothing };
        let rows = [row(1), row(0)];
        let by = Weighing { by_token: Some((&table, &rows)), ..Weighing::default() };
        let mut routing = Routing::default();
        let logits = [9.0, 9.0, 2.0, -1.0, 0.0, 0.0, 9.0, 9.0];
        routing.route(&logits, &experts(4, 2, Gating::SqrtSoftplus), by, false);
        // ln(1 + e^2) and ln(1 + e^-1), by mpmath.
        let roots = [2.126_928_f32.sqrt(), 0.313_261_7_f32.sqrt()];
        let expected = roots.map(|root| root / (roots[0] + roots[1]));
        let found: Vec<_> = routing.choices(0).iter().map(|choice| (choice.index, choice.score)).collect();
        assert!(found.iter().map(|found| found.0).eq([2, 3]), "{found:?}");
        assert!(found.iter().zip(expected).all(|(found, expected)| (found.1 - expected).abs() < 1e-6));
        assert!(
            routing.choices(1).iter().map(|choice| (choice.index, choice.score)).eq([(0, 0.5), (1, 0.5)])
        );
        // With fewer experts the stronger of those that are named.
        routing.route(&logits, &experts(4, 1, Gating::SqrtSoftplus), by, false);
        assert_eq!(routing.choices(0)[0], Choice { index: 2, score: 1.0 });
    }

    #[test]
    fn experts_have_factors_that_nothing_divides() {
        let by = Weighing { expert_scale: Some(&[1.0, 3.0, 5.0]), ..Weighing::default() };
        let mut routing = Routing::default();
        routing.route(&[0.0, 0.0, -90.0], &experts(3, 2, Gating::Softmax), by, false);
        let scores: Vec<_> = routing.choices(0).iter().map(|choice| choice.score).collect();
        assert_eq!(scores, [0.5, 1.5]);
    }

    #[test]
    fn groups_are_chosen_before_experts() {
        // The third group has the two best together, the first the single best one.
        let scores = [0.9f32, 0.1, 0.2, 0.3, 0.6, 0.7, 0.0, 0.8];
        let logits: Vec<f32> =
            scores.iter().map(|&score| (score / (1.0 - score.min(0.999))).max(1e-9).ln()).collect();
        for (counted, used, expected) in [(2, 1, [5, 4]), (1, 1, [0, 1]), (2, 2, [0, 5])] {
            let mut sigmoid = experts(8, 2, Gating::Sigmoid);
            sigmoid.groups = Some(Groups { count: 4, used, counted });
            let mut routing = Routing::default();
            routing.route(&logits, &sigmoid, Weighing::default(), false);
            let chosen: Vec<u32> = routing.choices(0).iter().map(|choice| choice.index).collect();
            assert_eq!(chosen, expected, "{counted} counted, {used} used");
        }
    }

    #[test]
    fn a_threshold_leaves_out_the_weak_and_keeps_the_sum() {
        let mut routing = Routing::default();
        let softmax = Shape { threshold: 0.2, ..experts(4, 3, Gating::SoftmaxChosen) };
        let logits = [0.7f32.ln(), 0.25f32.ln(), 0.05f32.ln(), -50.0, 0.0, 0.0, 0.0, -50.0];
        routing.route(&logits, &softmax, Weighing::default(), false);
        let dropped: Vec<bool> = (0..6).map(|i| routing.is_dropped(i / 3, i % 3)).collect();
        assert_eq!(dropped, [false, false, true, false, false, false]);
        let kept: Vec<f32> = routing.choices(0)[..2].iter().map(|choice| choice.score).collect();
        assert!((kept[0] + kept[1] - 1.0).abs() < 1e-6 && (kept[0] / kept[1] - 2.8).abs() < 1e-4, "{kept:?}");
        assert_eq!(routing.dispatch().active(), [0, 1, 2]);
        assert_eq!(routing.dispatch().picks(2).len(), 1);
    }
}
