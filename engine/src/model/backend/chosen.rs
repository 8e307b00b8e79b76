//! Which positions rows look at, in host memory: scores page by page, then the best of each row.

use super::super::kv_cache::KvCache;
use super::super::pool::PAGE;
use super::super::step::{ChoiceStep, Row, runs};
use crate::threads::Team;
use std::cell::RefCell;
use std::ops::Range;

/// Rows whose scores are held together, and how many scores.
const ROWS: usize = 16;
const SCORES: usize = 1 << 20;

/// The positions that each row of a batch looks at.
#[derive(Default)]
pub struct Chosen {
    most: usize,
    sees_all: Vec<bool>,
    positions: Vec<u32>, // (rows, most), rising; of rows that see all undefined
}

impl Chosen {
    /// Those of a row, rising; `None` where it looks at all.
    pub(super) fn of(&self, row: usize) -> Option<&[u32]> {
        (!self.sees_all[row]).then(|| &self.positions[row * self.most..][..self.most])
    }

    fn begin(&mut self, step: &ChoiceStep<'_>) {
        self.most = step.most;
        self.sees_all.clear();
        self.sees_all.extend(step.rows.iter().map(|row| row.position < step.most));
        let len = if self.sees_all.contains(&false) { step.rows.len() * step.most } else { 0 };
        self.positions.resize(len, 0);
    }
}

/// Chooses for every row that has more positions than it looks at. `score` gets a sequence's cache, a page's number and
/// some of its rows, and writes `(rows, PAGE)` scores.
pub(super) fn choose(
    team: &Team,
    step: &ChoiceStep<'_>,
    states: &[KvCache],
    scores: &mut Vec<f32>,
    score: impl Fn(&KvCache, usize, Range<usize>, &mut [f32]) + Sync,
    chosen: &mut Chosen,
) {
    chosen.begin(step);
    for run in runs(step.rows) {
        let cache = &states[step.rows[run.start].sequence];
        let mut start = run.start;
        while start < run.end {
            if chosen.sees_all[start] {
                start += 1;
                continue;
            }
            let pages = |row: &Row| (row.position + 1).div_ceil(PAGE);
            let count = (SCORES / (pages(&step.rows[start]) * PAGE)).clamp(1, ROWS).min(run.end - start);
            let rows = start..start + count;
            let width = count * PAGE;
            scores.resize(step.rows[rows.clone()].iter().map(pages).max().unwrap_or(0) * width, 0.0);
            team.each_row(scores, width, 1, |page, out| score(cache, page, rows.clone(), out));
            let places = &mut chosen.positions[rows.start * step.most..rows.end * step.most];
            team.each_row(places, step.most, 1, |i, places| {
                let score = |position: u32| {
                    let (page, at) = (position as usize / PAGE, position as usize % PAGE);
                    scores[page * width + i * PAGE + at]
                };
                find_best(step.rows[rows.start + i].position, score, places);
            });
            start = rows.end;
        }
    }
}

/// The positions up to `last` of the largest scores, rising; the earlier ones where scores are equal.
fn find_best(last: usize, score: impl Fn(u32) -> f32, best: &mut [u32]) {
    thread_local! {
        static POSITIONS: RefCell<Vec<u32>> = RefCell::default();
    }
    POSITIONS.with_borrow_mut(|positions| {
        positions.clear();
        positions.extend(0..=last as u32);
        let largest_first = |a: &u32, b: &u32| score(*b).total_cmp(&score(*a)).then(a.cmp(b));
        positions.select_nth_unstable_by(best.len() - 1, largest_first);
        best.copy_from_slice(&positions[..best.len()]);
        best.sort_unstable();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_scores_win_and_of_equal_ones_the_earlier() {
        let scores = [1.0, 3.0, 2.0, 3.0, -1.0, 2.0, 2.0, 9.0];
        let best = |last, count| {
            let mut best = vec![0; count];
            find_best(last, |position| scores[position as usize], &mut best);
            best
        };
        assert_eq!(best(6, 2), [1, 3]);
        assert_eq!(best(6, 3), [1, 2, 3]);
        assert_eq!(best(6, 4), [1, 2, 3, 5]);
        assert_eq!(best(7, 1), [7]);
        assert_eq!(best(3, 4), [0, 1, 2, 3]);
    }
}
