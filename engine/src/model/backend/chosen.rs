//! Which positions rows look at, in host memory: scores page by page, then the best of each row.

use super::super::kv_cache::KvCache;
use super::super::pool::PAGE;
use super::super::step::{ChoiceStep, Row, runs};
use crate::ops::best;
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
                let seen = 0..=step.rows[rows.start + i].position;
                find_best(seen.map(|p| scores[p / PAGE * width + i * PAGE + p % PAGE]), places);
            });
            start = rows.end;
        }
    }
}

/// The places of the largest scores, rising.
fn find_best(scores: impl Iterator<Item = f32>, places: &mut [u32]) {
    thread_local! {
        static ROW: RefCell<(Vec<f32>, Vec<u32>)> = RefCell::default();
    }
    ROW.with_borrow_mut(|(row, found)| {
        row.clear();
        row.extend(scores);
        best(row, places.len(), found);
        places.copy_from_slice(found);
    });
}
