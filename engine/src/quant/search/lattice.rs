//! Search for points of a codebook and scales: weight = (d * unit * (2 * scale + 1)) * code, where the codes of 8
//! weights come from a list (IQ2, IQ3, IQ1).
//!
//! Each group gets a scale as if all codes were free; then steps `d` are tried, and in turns the scales around those
//! in use and the step that suits. Compiled once per instruction set for all formats: they differ in data.

use super::nearest::{Codes, Nearest, Points, Query, Tables};
use super::{Prepared, inverse};
use crate::simd::{LANES, Lanes, Work};
use half::f16;
use std::ops::Range;

/// What a format allows.
#[derive(Debug)]
pub(crate) struct Lattice {
    pub points: Points,
    pub signs: Signs,
    /// What a scale counts, in `d`.
    pub unit: f32,
    /// The largest scale.
    pub top: u8,
    /// Groups of 8 weights that share a scale.
    pub octets: usize,
    /// How often scales and step are improved in turns. With the coarse codes of IQ1 a second round gains nothing.
    pub rounds: usize,
}

/// How codes become negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Signs {
    /// Every weight has a sign.
    Free,
    /// Of 8 weights an even number is negative.
    Even,
    /// Levels have signs; 1 is added to the codes, or taken from them, for all 8 weights.
    Shifted,
    /// The same for all weights of a group.
    ShiftedTogether,
}

/// A block as the search leaves it.
pub(crate) struct LatticeBlock {
    pub d: f16,
    pub scales: [u8; 16],
    pub octets: [Octet; 32],
}

/// Eight weights.
#[derive(Clone, Copy, Default)]
pub(crate) struct Octet {
    /// One point of 8 values, or two of 4.
    pub points: [u16; 2],
    /// Bit i: weight i is negative.
    pub signs: u8,
    /// 1 is taken from the codes instead of added.
    pub lowered: bool,
}

/// Quantizes a block.
#[inline(always)]
pub(crate) fn lattice_block<L: Lanes>(
    lattice: &'static Lattice,
    weights: &[f32],
    importance: Option<&[f32]>,
) -> LatticeBlock {
    L::ISA.run(Block { lattice, weights, importance })
}

struct Block<'a> {
    lattice: &'static Lattice,
    weights: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Work for Block<'_> {
    type Output = LatticeBlock;
    #[inline(always)]
    fn run<L: Lanes>(self) -> LatticeBlock {
        let prepared = Prepared::new::<L>(self.weights, self.importance);
        Search::new(self.lattice, &prepared).run(&mut Tables::<L>::new())
    }
}

/// Step, and what scales count of it.
struct Steps {
    d: (f16, f32),
    scales: [f32; 16], // 2 * scale + 1, or not yet whole
}

struct Search<'a> {
    lattice: &'static Lattice,
    w: &'a [[f32; 8]],
    /// The weights as points approximate them: magnitudes where signs are kept apart.
    x: [[f32; 8]; 32],
    signs: [u8; 32],
    /// 1 where one of 8 weights must get the wrong sign.
    odd: [f32; 32],
    prepared: &'a Prepared<256>,
}

/// Points of a group and their cost, per lane.
struct Tried<L> {
    cost: L,
    points: [[L; 2]; 4],
    lowered: [L; 4],
}

/// Groups that are tried together, each with `CHOICES` scales.
const TOGETHER: usize = LANES / CHOICES;
const CHOICES: usize = 4;

impl<'a> Search<'a> {
    #[inline(always)]
    fn new(lattice: &'static Lattice, prepared: &'a Prepared<256>) -> Self {
        let mut x = *prepared.x.as_chunks().0.first_chunk().expect("a whole block");
        let (mut signs, mut odd) = ([0; 32], [0.0; 32]);
        if !lattice.is_shifted() {
            for (octet, x) in x.iter_mut().enumerate() {
                signs[octet] = minus_signs(x);
                *x = x.map(f32::abs);
                odd[octet] = lattice.is_odd(signs[octet]);
            }
        }
        Self { lattice, w: prepared.w.as_chunks().0, x, signs, odd, prepared }
    }

    #[inline(always)]
    fn groups(&self) -> usize {
        32 / self.lattice.octets
    }

    #[inline(always)]
    fn octets(&self, group: usize) -> Range<usize> {
        group * self.lattice.octets..(group + 1) * self.lattice.octets
    }

    /// One place for all questions: what stands here is big, and inlined.
    #[inline(always)]
    fn run<L: Lanes>(&self, tables: &mut Tables<L>) -> LatticeBlock {
        let mut steps = self.first_steps::<L>();
        let mut octets = [Octet::default(); 32];
        for round in 0..=self.lattice.rounds {
            let is_last = round == self.lattice.rounds;
            let batches = if is_last { 1 } else { self.groups() / TOGETHER };
            for batch in 0..batches {
                let (groups, scales) = self.question(is_last, batch, &steps.scales);
                let scale = L::load(&scales) * L::splat(steps.d.1 * self.lattice.unit);
                let tried = self.try_scales(&groups, scale, tables);
                self.choose(&groups, &scales, &tried, &mut steps.scales, &mut octets);
            }
            if !is_last {
                self.solve(&mut steps, &octets);
            }
        }
        let scales = steps.scales.map(|scale| ((scale - 1.0) / 2.0) as u8);
        LatticeBlock { d: steps.d.0, scales, octets }
    }

    /// What lanes try: scales around those of a few groups; at the end the scales of all.
    #[inline(always)]
    fn question(&self, is_last: bool, batch: usize, scales: &[f32; 16]) -> ([usize; LANES], [f32; LANES]) {
        if is_last {
            let groups = std::array::from_fn(|lane| lane % self.groups());
            return (groups, groups.map(|group| scales[group]));
        }
        let groups: [usize; LANES] = std::array::from_fn(|lane| batch * TOGETHER + lane / CHOICES);
        let near = |lane: usize| {
            let below = ((scales[groups[lane]] - 1.0) / 2.0).floor() * 2.0 + 1.0;
            (below + 2.0 * (lane % CHOICES) as f32 - 2.0).clamp(1.0, self.limit())
        };
        (groups, std::array::from_fn(near))
    }

    /// Gives each group what its best lane has found.
    #[inline(always)]
    fn choose<L: Lanes>(
        &self,
        groups: &[usize; LANES],
        tries: &[f32; LANES],
        tried: &Tried<L>,
        scales: &mut [f32; 16],
        octets: &mut [Octet; 32],
    ) {
        let costs = tried.cost.store();
        let mut best: [Option<usize>; 16] = [None; 16];
        for (lane, &group) in groups.iter().enumerate() {
            if best[group].is_none_or(|best| costs[lane] < costs[best]) {
                best[group] = Some(lane);
            }
        }
        for (group, lane) in best.iter().enumerate() {
            if let &Some(lane) = lane {
                scales[group] = tries[lane];
                self.take(tried, lane, group, octets);
            }
        }
    }

    /// For each group a scale as if codes could be combined freely.
    #[inline(always)]
    fn free_scales<L: Lanes>(&self) -> [f32; 16] {
        let mut scales = [0.0; 16];
        for (group, scale) in scales[..self.groups()].iter_mut().enumerate() {
            let largest = self.x[self.octets(group)].as_flattened().iter().fold(0f32, |a, b| a.max(b.abs()));
            let top = self.lattice.points.levels.last().map_or(1.0, |&level| level as f32);
            *scale = largest / top;
            for [first, factor] in [[0.25, 1.116], [0.93, 1.01]] {
                let mut candidates = [*scale * first; LANES];
                (1..LANES).for_each(|lane| candidates[lane] = candidates[lane - 1] * factor);
                let costs = self.free_costs(group, L::load(&candidates));
                *scale = candidates[costs.least()];
            }
        }
        scales
    }

    #[inline(always)]
    fn free_costs<L: Lanes>(&self, group: usize, scale: L) -> L {
        let mut totals = [L::splat(0.0); 2];
        for octet in self.octets(group) {
            let mut costs = [L::splat(0.0); 2];
            for (&x, &w) in self.x[octet].iter().zip(&self.w[octet]) {
                let (w, double) = (L::splat(w), L::splat(2.0 * w * x));
                for (cost, &shift) in costs.iter_mut().zip(self.lattice.shifts()) {
                    let mut least = L::splat(f32::MAX);
                    for &level in self.lattice.points.levels {
                        let size = scale * L::splat(level as f32 + shift);
                        least = least.min(size * (size * w - double));
                    }
                    *cost = *cost + least;
                }
            }
            if self.lattice.signs == Signs::Shifted {
                costs = [costs[0].min(costs[1]); 2];
            }
            totals = [totals[0] + costs[0], totals[1] + costs[1]];
        }
        if self.lattice.is_shifted() { totals[0].min(totals[1]) } else { totals[0] }
    }

    /// The best of some steps around that which gives the largest scale its largest number.
    #[inline(always)]
    fn first_steps<L: Lanes>(&self) -> Steps {
        let (free, limit) = (self.free_scales::<L>(), self.limit());
        let largest = free.iter().fold(0f32, |a, &b| a.max(b)) / limit;
        let steps = L::from_fn(|lane| largest * (0.85 + lane as f32 * 0.025));
        let (steepness, mut costs) = (steps.inverse(), L::splat(0.0));
        for (group, &scale) in free[..self.groups()].iter().enumerate() {
            let whole = (L::splat(scale - largest) * steepness * L::splat(0.5)).nearest();
            let odd = (whole + whole + L::splat(1.0)).max(L::splat(1.0)).min(L::splat(limit));
            costs = costs + self.free_costs(group, odd * steps);
        }
        let d = self.prepared.stored(steps.store()[costs.least()] / self.lattice.unit);
        Steps { d, scales: free.map(|scale| scale * inverse(d.1 * self.lattice.unit)) }
    }

    /// The step with the least error for points and scales as they are.
    #[inline(always)]
    fn solve(&self, steps: &mut Steps, octets: &[Octet; 32]) {
        let (mut qq, mut qx) = (0.0, 0.0);
        for (i, octet) in octets.iter().enumerate() {
            let scale = steps.scales[i / self.lattice.octets] * self.lattice.unit;
            let codes = self.lattice.codes(octet, self.signs[i]);
            for ((code, x), w) in codes.iter().zip(&self.x[i]).zip(&self.w[i]) {
                let code = code * scale;
                qq += w * code * code;
                qx += w * code * x;
            }
        }
        if qq > 0.0 && qx > 0.0 {
            steps.d = self.prepared.stored(qx / qq);
        }
    }

    /// Writes down the points of a lane.
    #[inline(always)]
    fn take<L: Lanes>(&self, tried: &Tried<L>, lane: usize, group: usize, octets: &mut [Octet; 32]) {
        for j in 0..self.lattice.octets {
            let i = group * self.lattice.octets + j;
            let points = tried.points[j].map(|points| points.store()[lane] as u16);
            let lowered = tried.lowered[j].store()[lane] > 0.0;
            octets[i] = self.lattice.octet(points, lowered, self.signs[i], &self.x[i], &self.w[i]);
        }
    }

    /// The largest scale, as it counts.
    #[inline(always)]
    fn limit(&self) -> f32 {
        2.0 * f32::from(self.lattice.top) + 1.0
    }

    /// The best points of a group per lane, and what they cost.
    #[inline(always)]
    fn try_scales<L: Lanes>(&self, groups: &[usize; LANES], scale: L, tables: &mut Tables<L>) -> Tried<L> {
        let zero = L::splat(0.0);
        let mut found = [[(zero, [zero; 2]); 4]; 2];
        for (&shift, found) in self.lattice.shifts().iter().zip(&mut found) {
            for (j, found) in found[..self.lattice.octets].iter_mut().enumerate() {
                let octet = groups.map(|group| group * self.lattice.octets + j);
                let query = Query {
                    x: std::array::from_fn(|k| L::from_fn(|lane| self.x[octet[lane]][k])),
                    w: std::array::from_fn(|k| L::from_fn(|lane| self.w[octet[lane]][k])),
                    scale,
                    shift,
                    odd: L::from_fn(|lane| self.odd[octet[lane]]),
                };
                *found = self.lattice.nearest(&query, tables);
            }
        }
        self.lattice.better_shift(&found)
    }
}

/// Bit i is 1 where value i is negative.
#[inline(always)]
pub(super) fn minus_signs(values: &[f32; 8]) -> u8 {
    values.iter().enumerate().map(|(i, &value)| u8::from(value < 0.0) << i).sum()
}

impl Lattice {
    /// The best points of 8 weights and their cost: one point, or two of four values.
    #[inline(always)]
    pub(super) fn nearest<L: Lanes>(&self, query: &Query<L>, tables: &mut Tables<L>) -> (L, [L; 2]) {
        let points = &self.points;
        let count = 8 / points.values;
        let mut found = [[Nearest { cost: L::splat(0.0), point: L::splat(0.0) }; 2]; 2];
        for (i, [plain, turned]) in found[..count].iter_mut().enumerate() {
            if self.signs == Signs::Even {
                tables.fill::<true>(points, query, i * points.values);
                *turned = tables.nearest::<true>(points);
            } else {
                tables.fill::<false>(points, query, i * points.values);
            }
            if self.signs != Signs::Even || count == 2 {
                *plain = tables.nearest::<false>(points);
            }
        }
        let [[first, first_turned], [second, second_turned]] = found;
        if self.signs != Signs::Even {
            return (first.cost + second.cost, [first.point, second.point]);
        }
        // Where no sign has to be turned, both are the same.
        let (a, b) = (first_turned.cost + second.cost, first.cost + second_turned.cost);
        if count == 1 {
            return (first_turned.cost, [first_turned.point; 2]);
        }
        let choose = |yes: L, no: L| a.if_above(b, yes, no);
        (a.min(b), [choose(first.point, first_turned.point), choose(second_turned.point, second.point)])
    }

    /// The codes of an octet, for weights whose signs were `signs` before they became magnitudes.
    #[inline(always)]
    fn codes(&self, octet: &Octet, signs: u8) -> [f32; 8] {
        let [first, second] = octet.points.map(usize::from);
        let mut codes = match self.points.codes {
            Codes::Eight(codes) => codes[first].map(f32::from),
            Codes::Four(codes) => {
                let (first, second) = (codes[first], codes[second]);
                std::array::from_fn(|i| f32::from(if i < 4 { first[i] } else { second[i - 4] }))
            }
        };
        let turned = octet.signs ^ signs;
        let shift = self.shifts()[usize::from(octet.lowered)];
        for (i, code) in codes.iter_mut().enumerate() {
            *code = if turned >> i & 1 == 1 { -*code } else { *code + shift };
        }
        codes
    }

    /// 1 where one of 8 weights must get the wrong sign.
    #[inline(always)]
    pub(super) fn is_odd(&self, signs: u8) -> f32 {
        if self.signs == Signs::Even && signs.count_ones() % 2 == 1 { 1.0 } else { 0.0 }
    }

    /// The octet at `points` for magnitudes `x` that had `signs`; where one must be wrong, it is the one that loses
    /// least.
    #[inline(always)]
    pub(super) fn octet(
        &self,
        points: [u16; 2],
        lowered: bool,
        signs: u8,
        x: &[f32; 8],
        w: &[f32; 8],
    ) -> Octet {
        let mut octet = Octet { points, signs, lowered };
        if self.is_odd(signs) > 0.0 {
            let codes = self.codes(&octet, signs);
            let costs: [f32; 8] = std::array::from_fn(|k| codes[k] * x[k] * w[k]);
            octet.signs ^= 1 << (1..8).fold(0, |best, k| if costs[k] < costs[best] { k } else { best });
        }
        octet
    }

    /// What an octet stands for, in scales.
    #[inline(always)]
    pub(super) fn values(&self, octet: &Octet) -> [f32; 8] {
        self.codes(octet, 0)
    }

    #[inline(always)]
    fn is_shifted(&self) -> bool {
        matches!(self.signs, Signs::Shifted | Signs::ShiftedTogether)
    }

    /// What may be added to levels.
    #[inline(always)]
    fn shifts(&self) -> &'static [f32] {
        if self.is_shifted() { &[1.0, -1.0] } else { &[0.0] }
    }

    /// The better of two shifts per lane, where there are two.
    #[inline(always)]
    fn better_shift<L: Lanes>(&self, found: &[[(L, [L; 2]); 4]; 2]) -> Tried<L> {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        let mut tried = Tried { cost: zero, points: [[zero; 2]; 4], lowered: [zero; 4] };
        let totals = found.map(|found| found.iter().fold(zero, |total, found| total + found.0));
        let both = found[0].iter().zip(&found[1]).take(self.octets).enumerate();
        for (j, (&(mut cost, mut points), &(other_cost, other_points))) in both {
            if self.is_shifted() {
                let [a, b] = if self.signs == Signs::Shifted { [cost, other_cost] } else { totals };
                tried.lowered[j] = a.if_above(b, one, zero);
                points[0] = a.if_above(b, other_points[0], points[0]);
                cost = a.if_above(b, other_cost, cost);
            }
            (tried.cost, tried.points[j]) = (tried.cost + cost, points);
        }
        tried
    }
}
