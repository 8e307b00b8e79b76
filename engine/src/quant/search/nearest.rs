//! The nearest points of a codebook, sixteen questions at a time, one per lane.
//!
//! A squared error is a sum over values, so a point costs what its two halves cost: these few sums are made first,
//! and a point is then one addition. Points that share the upper half lie together and are passed over where even
//! the best lower half could not win. The answer is exact.

use crate::simd::{LANES, Lanes};

/// The points of a format, in halves.
#[derive(Debug)]
pub(crate) struct Points {
    /// The lower half of every point, as a number whose digits count `levels`.
    pub lows: &'static [u8],
    /// The points with upper half `h` are `starts[h]..starts[h + 1]`.
    pub starts: &'static [u16],
    /// What the digits mean, in rising order.
    pub levels: &'static [i8],
    /// What points mean.
    pub codes: Codes,
    /// Values of a point: 8 or 4.
    pub values: usize,
}

/// The codes of every point.
#[derive(Debug)]
pub(crate) enum Codes {
    Eight(&'static [[i8; 8]]),
    Four(&'static [[i8; 4]]),
}

/// As many halves as there may be: 3^4 or 8^2.
const HALVES: usize = 81;

/// What halves cost.
pub(super) struct Tables<L> {
    /// Indexed by any byte, lest indices have to be checked.
    low: [L; 256],
    high: [L; HALVES],
    /// The same with the sign of one value turned, the cheapest.
    low_turned: [L; 256],
    high_turned: [L; HALVES],
    /// Not above any lower half's cost, as it is and with a sign turned.
    low_bound: [L; 2],
}

/// A point and its cost, per lane.
#[derive(Clone, Copy)]
pub(super) struct Nearest<L> {
    pub cost: L,
    pub point: L,
}

/// What is asked for: the values, how much each matters, and the size of a step between levels.
pub(super) struct Query<L> {
    pub x: [L; 8],
    pub w: [L; 8],
    pub scale: L,
    /// Added to every level.
    pub shift: f32,
    /// 1 where the sign of one value has to be turned, else 0.
    pub odd: L,
}

impl<L: Lanes> Tables<L> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        let zero = L::splat(0.0);
        Self {
            low: [zero; 256],
            high: [zero; HALVES],
            low_turned: [zero; 256],
            high_turned: [zero; HALVES],
            low_bound: [zero; 2],
        }
    }

    /// Makes the sums for the values from `first` on; those with a turned sign only where `TURN` says so.
    #[inline(always)]
    pub(super) fn fill<const TURN: bool>(&mut self, points: &Points, query: &Query<L>, first: usize) {
        let half = points.values / 2;
        self.low_bound = [L::splat(0.0), L::splat(f32::MAX)];
        for place in 0..half {
            let value = Value::new(query, first + place);
            let [least, turn] = value.extend::<TURN>(points, place, &mut self.low, &mut self.low_turned);
            self.low_bound[0] = self.low_bound[0] + least;
            self.low_bound[1] = self.low_bound[1].min(turn);
        }
        self.low_bound[1] = self.low_bound[1] + self.low_bound[0];
        for place in 0..half {
            let value = Value::new(query, first + half + place);
            value.extend::<TURN>(points, place, &mut self.high, &mut self.high_turned);
        }
        if TURN {
            let halves = points.levels.len().pow(half as u32);
            add(&mut self.low_turned[..halves], &self.low);
            add(&mut self.high_turned[..halves], &self.high);
        }
    }

    /// The nearest point per lane; with `TURN` the nearest when a sign is turned in one of the two halves.
    #[inline(always)]
    pub(super) fn nearest<const TURN: bool>(&self, points: &Points) -> Nearest<L> {
        let mut best = Nearest { cost: L::splat(f32::MAX), point: L::splat(0.0) };
        for half in self.likely(points).into_iter().chain(0..points.starts.len() - 1) {
            let mut bound = self.low_bound[0] + self.high[half];
            if TURN {
                bound = (self.low_bound[0] + self.high_turned[half]).min(self.low_bound[1] + self.high[half]);
            }
            if bound.is_below_any(best.cost) {
                best = self.visit::<TURN>(points, half, best);
            }
        }
        best
    }

    /// The points that share an upper half.
    #[inline(always)]
    fn visit<const TURN: bool>(&self, points: &Points, half: usize, mut best: Nearest<L>) -> Nearest<L> {
        let (start, end) = (points.starts[half], points.starts[half + 1]);
        let (high, high_turned) = (self.high[half], self.high_turned[half]);
        let (mut point, one) = (L::splat(start as f32), L::splat(1.0));
        for &low in &points.lows[start as usize..end as usize] {
            let mut cost = self.low[low as usize] + high;
            if TURN {
                cost = (self.low[low as usize] + high_turned).min(self.low_turned[low as usize] + high);
            }
            best.point = best.cost.if_above(cost, point, best.point);
            best.cost = best.cost.min(cost);
            point = point + one;
        }
        best
    }

    /// For some of the lanes the upper half that costs least, of those that points have: a good start rules out most
    /// of the others.
    #[inline(always)]
    fn likely(&self, points: &Points) -> [usize; 4] {
        let (mut likely, mut least) = (L::splat(0.0), L::splat(f32::MAX));
        for (half, [start, end]) in points.starts.array_windows().enumerate() {
            if start < end {
                likely = least.if_above(self.high[half], L::splat(half as f32), likely);
                least = least.min(self.high[half]);
            }
        }
        let likely = likely.store();
        std::array::from_fn(|i| likely[i * LANES / 4 + 1] as usize)
    }
}

/// One of the values asked for.
struct Value<L> {
    scale: L,
    shift: f32,
    w: L,
    double: L, // 2 * w * x
    turn: L,   // 4 * w * x, or 0 where no sign has to be turned
}

impl<L: Lanes> Value<L> {
    #[inline(always)]
    fn new(query: &Query<L>, i: usize) -> Self {
        let (w, weighted) = (query.w[i], query.w[i] * query.x[i]);
        let double = weighted + weighted;
        Self { scale: query.scale, shift: query.shift, w, double, turn: query.odd * (double + double) }
    }

    /// Goes on from halves of `place` values to those with this one. Also its least cost, and that of a turn.
    #[inline(always)]
    fn extend<const TURN: bool>(
        &self,
        points: &Points,
        place: usize,
        costs: &mut [L],
        turns: &mut [L],
    ) -> [L; 2] {
        let known = points.levels.len().pow(place as u32);
        let mut least = [L::splat(f32::MAX); 2];
        // Digit 0 takes the place of what the others start from.
        for (digit, &level) in points.levels.iter().enumerate().rev() {
            let size = self.scale * L::splat(level as f32 + self.shift);
            let (cost, turn) = (size * (size * self.w - self.double), size * self.turn);
            least = [least[0].min(cost), least[1].min(turn)];
            for i in 0..known {
                costs[digit * known + i] = if place == 0 { cost } else { costs[i] + cost };
                if TURN {
                    turns[digit * known + i] = if place == 0 { turn } else { turns[i].min(turn) };
                }
            }
        }
        least
    }
}

#[inline(always)]
fn add<L: Lanes>(sums: &mut [L], values: &[L]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = *sum + *value;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::grids;
    use super::*;
    use crate::quant::tests::isas;
    use crate::simd::Work;

    static IQ2_XS: Points = Points {
        lows: &grids::IQ2_XS.lows(8, 3),
        starts: &grids::IQ2_XS.starts::<82>(8, 3),
        levels: &grids::LEVELS_2,
        codes: Codes::Eight(&grids::IQ2_XS.values(&grids::LEVELS_2)),
        values: 8,
    };
    const ODD: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
    static IQ3_S: Points = Points {
        lows: &grids::IQ3_S.lows(4, 8),
        starts: &grids::IQ3_S.starts::<65>(4, 8),
        levels: &ODD,
        codes: Codes::Four(&grids::IQ3_S.values(&ODD)),
        values: 4,
    };

    /// A query in numbers: values and their weights per lane.
    struct Ask<'a> {
        points: &'a Points,
        x: &'a [[f32; LANES]; 8],
        w: &'a [[f32; LANES]; 8],
        scale: f32,
    }

    impl Work for Ask<'_> {
        /// Cost and point, as they are and with a sign turned.
        type Output = [([f32; LANES], [f32; LANES]); 2];
        #[inline(always)]
        fn run<L: Lanes>(self) -> Self::Output {
            let (x, w) = (self.x.each_ref().map(L::load), self.w.each_ref().map(L::load));
            let query = Query { x, w, scale: L::splat(self.scale), shift: 0.0, odd: L::splat(1.0) };
            let mut tables = Tables::new();
            tables.fill::<true>(self.points, &query, 0);
            [tables.nearest::<false>(self.points), tables.nearest::<true>(self.points)]
                .map(|found| (found.cost.store(), found.point.store()))
        }
    }

    /// The cost of a point for a lane, as it is and with the cheapest sign turned.
    fn costs(ask: &Ask<'_>, point: usize, lane: usize) -> [f64; 2] {
        let codes = match ask.points.codes {
            Codes::Eight(codes) => &codes[point][..],
            Codes::Four(codes) => &codes[point][..],
        };
        let (mut cost, mut turn) = (0f64, f64::MAX);
        for (i, &code) in codes.iter().enumerate() {
            let [x, w, size] = [ask.x[i][lane], ask.w[i][lane], ask.scale * f32::from(code)].map(f64::from);
            cost += w * size * (size - 2.0 * x);
            turn = turn.min(4.0 * w * size * x);
        }
        [cost, cost + turn]
    }

    #[test]
    fn no_point_is_nearer_than_the_one_found() {
        let number = |seed: usize| ((seed * 2_654_435_761 % 1_000_003) as f32 / 1_000_003.0).powi(2);
        for (points, count) in [(&IQ2_XS, 512), (&IQ3_S, 512)] {
            for case in 0..20 {
                let fill = |kind: usize, i: usize| {
                    std::array::from_fn(|lane| number(case + 97 * i + 1009 * lane + kind))
                };
                let (x, w) = (std::array::from_fn(|i| fill(1, i)), std::array::from_fn(|i| fill(5, i)));
                let top = f32::from(points.levels[points.levels.len() - 1]);
                let ask = || Ask { points, x: &x, w: &w, scale: (0.3 + case as f32 / 20.0) / top };
                for isa in isas() {
                    for (turned, (found, number)) in isa.run(ask()).into_iter().enumerate() {
                        for lane in 0..LANES {
                            let cost = |point| costs(&ask(), point, lane)[turned];
                            let least = (0..count).map(cost).fold(f64::MAX, f64::min);
                            assert!((f64::from(found[lane]) - least).abs() < 1e-4, "{isa} {case} {lane}");
                            assert!(
                                (cost(number[lane] as usize) - least).abs() < 1e-4,
                                "{isa} {case} {lane}"
                            );
                        }
                    }
                }
            }
        }
    }
}
