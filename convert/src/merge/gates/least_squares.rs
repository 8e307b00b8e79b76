//! Gates by least squares: the linear map from what a router sees of each expert's texts to whose text it is.
//!
//! With X `(tokens, width)` and Y `(tokens, experts)` of ones and zeros, `W = transpose(Y - 1/E) X (transpose(X) X + λ t
//! I)^-1`, t the mean of the diagonal. One factor per layer then sharpens the choice: the one with which the softmax of
//! `s W x` says best whose the held-out tokens are.

use super::material::{Passage, Purpose};
use moewe_engine::eval::moments::Sum;
use moewe_engine::{Error, Result};
use rayon::prelude::*;

/// λ: a twentieth of the inputs' mean square on top.
const DAMPING: f64 = 0.05;
/// Factors between which the best is looked for.
const SCALES: [f64; 2] = [1e-2, 1e3];
/// Rows of inputs that are summed up at a time.
const ROWS: usize = 256;

/// What is fitted to.
pub(super) struct Fit<'a> {
    pub(super) passages: &'a [Passage],
    pub(super) experts: usize,
    pub(super) width: usize,
}

impl Fit<'_> {
    /// The gates `(experts, width)` of a layer that sees `router`, times `scale` where that is given.
    ///
    /// # Errors
    /// Inputs that are no numbers.
    pub(super) fn gates(&self, router: &[f32], scale: Option<f64>) -> Result<Vec<f32>> {
        let width = self.width;
        let mut moments = self.moments(router);
        let mean = (0..width).map(|k| moments[k * width + k]).sum::<f64>() / width as f64;
        if !mean.is_finite() {
            let hint = "the base computes no numbers on these texts; look at it with `moewe perplexity`";
            return Err(Error::unsupported("router inputs that are no numbers", hint));
        }
        // A layer that sees only zeros has no say.
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        (0..width).for_each(|k| moments[k * width + k] += damping);
        cholesky(&mut moments, width);
        let targets = self.targets(router);
        let rows: Vec<Vec<f64>> =
            targets.into_par_iter().map(|target| solve(&moments, width, target)).collect();
        let scale = scale.unwrap_or_else(|| self.scale(&rows, router));
        Ok(rows.iter().flatten().map(|&weight| (scale * weight) as f32).collect())
    }

    fn with<'r>(&self, purpose: Purpose, router: &'r [f32]) -> impl Iterator<Item = (usize, &'r [f32])> {
        let passages = self.passages.iter().filter(move |passage| passage.purpose == purpose);
        let width = self.width;
        passages.flat_map(move |passage| {
            passage.content().map(move |row| (passage.owner, &router[row * width..][..width]))
        })
    }

    /// `transpose(X) X`, of which the lower triangle is filled.
    fn moments(&self, router: &[f32]) -> Vec<f64> {
        let rows: Vec<&[f32]> = self.with(Purpose::Fitted, router).map(|(_, row)| row).collect();
        let mut total = vec![0f64; self.width * self.width];
        // Floats within a few hundred rows, doubles over them.
        for rows in rows.chunks(ROWS) {
            let mut sum = Sum::whole(self.width);
            sum.add(&rows.concat());
            total.par_iter_mut().zip(&sum.spans[0]).for_each(|(total, &value)| *total += f64::from(value));
        }
        total
    }

    /// `transpose(X) (Y - 1/E)`, a row per expert.
    fn targets(&self, router: &[f32]) -> Vec<Vec<f64>> {
        let mut targets = vec![vec![0.0; self.width]; self.experts];
        for (owner, row) in self.with(Purpose::Fitted, router) {
            for (e, target) in targets.iter_mut().enumerate() {
                let y = f64::from(u8::from(e == owner)) - 1.0 / self.experts as f64;
                target.iter_mut().zip(row).for_each(|(target, &x)| *target += y * f64::from(x));
            }
        }
        targets
    }

    /// The factor that says best whose held-out tokens are.
    fn scale(&self, rows: &[Vec<f64>], router: &[f32]) -> f64 {
        let score = |row: &[f32]| -> Vec<f64> {
            rows.iter().map(|weights| weights.iter().zip(row).map(|(w, &x)| w * f64::from(x)).sum()).collect()
        };
        let held_out: Vec<(usize, Vec<f64>)> =
            self.with(Purpose::HeldOut, router).map(|(owner, row)| (owner, score(row))).collect();
        let loss = |log: f64| {
            let scale = log.exp();
            let of = |(owner, scores): &(usize, Vec<f64>)| {
                let most = scores.iter().fold(f64::MIN, |most, &score| most.max(score));
                let sum: f64 = scores.iter().map(|score| (scale * (score - most)).exp()).sum();
                sum.ln() - scale * (scores[*owner] - most)
            };
            held_out.iter().map(of).sum::<f64>()
        };
        lowest(&loss, SCALES[0].ln(), SCALES[1].ln()).exp()
    }
}

/// Where a function with one valley is lowest (golden section).
fn lowest(function: &dyn Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    while high - low > 1e-4 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if function(a) < function(b) { high = b } else { low = a }
    }
    (low + high) / 2.0
}

/// Rows that are a task of the decomposition.
const BAND: usize = 16;

/// The lower triangle into its Cholesky factor, in blocks of columns.
fn cholesky(matrix: &mut [f64], n: usize) {
    const BLOCK: usize = 64;
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        let (above, below) = matrix.split_at_mut(end * n);
        for k in start..end {
            let (before, own) = above.split_at_mut(k * n);
            let own = &mut own[..n];
            for j in start..k {
                let other = &before[j * n..][..n];
                let sum: f64 = own[start..j].iter().zip(&other[start..j]).map(|(a, b)| a * b).sum();
                own[j] = (own[j] - sum) / other[j];
            }
            let sum: f64 = own[start..k].iter().map(|a| a * a).sum();
            own[k] = (own[k] - sum).max(f64::MIN_POSITIVE).sqrt();
        }
        let block = &above[start * n..];
        // Rows below the block: first their part of it, then what that takes from their other columns.
        below.par_chunks_mut(n * BAND).for_each(|rows| {
            for row in rows.chunks_exact_mut(n) {
                for k in start..end {
                    let other = &block[(k - start) * n..][..n];
                    let sum: f64 = row[start..k].iter().zip(&other[start..k]).map(|(a, b)| a * b).sum();
                    row[k] = (row[k] - sum) / other[k];
                }
            }
        });
        let panel: Vec<f64> = below.chunks_exact(n).flat_map(|row| row[start..end].to_vec()).collect();
        let width = end - start;
        below.par_chunks_mut(n * BAND).enumerate().for_each(|(band, rows)| {
            for (i, row) in rows.chunks_exact_mut(n).enumerate() {
                let i = band * BAND + i;
                let own = &panel[i * width..][..width];
                for j in 0..=i {
                    let other = &panel[j * width..][..width];
                    row[end + j] -= own.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
                }
            }
        });
    }
}

/// Solves with a Cholesky factor.
fn solve(factor: &[f64], n: usize, mut right: Vec<f64>) -> Vec<f64> {
    for k in 0..n {
        let row = &factor[k * n..][..n];
        let sum: f64 = row[..k].iter().zip(&right[..k]).map(|(a, b)| a * b).sum();
        right[k] = (right[k] - sum) / row[k];
    }
    for k in (0..n).rev() {
        right[k] /= factor[k * n + k];
        let value = right[k];
        right[..k].iter_mut().zip(&factor[k * n..]).for_each(|(right, factor)| *right -= value * factor);
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_solves_its_matrix() {
        for n in [1, 5, 64, 65, 150] {
            let value = |i: usize, j: usize| (((i * 37 + j * 101) % 29) as f64 - 14.0) / 9.0;
            let product = |i: usize, j: usize| (0..n).map(|k| value(i, k) * value(j, k)).sum::<f64>();
            let at = |i: usize, j: usize| product(i.max(j), i.min(j)) + if i == j { 0.5 } else { 0.0 };
            let mut matrix: Vec<f64> =
                (0..n * n).map(|p| if p % n <= p / n { at(p / n, p % n) } else { f64::NAN }).collect();
            cholesky(&mut matrix, n);
            let right: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
            let found = solve(&matrix, n, right.clone());
            for (i, expected) in right.iter().enumerate() {
                let back: f64 = (0..n).map(|j| at(i, j) * found[j]).sum();
                assert!((back - expected).abs() < 1e-8, "{n} {i}: {back} {expected}");
            }
        }
    }

    #[test]
    fn gates_find_whose_text_it_is_and_how_sure_to_be() {
        // Three kinds of rows around three corners.
        let (experts, width, tokens) = (3, 8, 40);
        let row = |owner: usize, i: usize| {
            (0..width).map(move |k| {
                let noise = ((owner * 71 + i * 31 + k * 17) % 23) as f32 / 23.0 - 0.5;
                noise + if k == owner { 2.0 } else { 0.0 }
            })
        };
        let mut router: Vec<f32> = Vec::new();
        let mut passages = Vec::new();
        for purpose in [Purpose::Fitted, Purpose::HeldOut] {
            for owner in 0..experts {
                let start = router.len() / width;
                (0..tokens).for_each(|i| router.extend(row(owner, i + purpose as usize * 1000)));
                let rows = start..start + tokens;
                let tokens = vec![0; tokens];
                passages.push(Passage { tokens, owner, purpose, rows, has_start: false });
            }
        }
        let fit = Fit { passages: &passages, experts, width };
        let gates = fit.gates(&router, None).unwrap();
        let first = |row: &[f32]| {
            let score =
                |e: usize| -> f32 { gates[e * width..][..width].iter().zip(row).map(|(a, b)| a * b).sum() };
            (0..experts).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap()
        };
        assert!(fit.with(Purpose::HeldOut, &router).all(|(owner, row)| first(row) == owner));
        // The factor is where the loss is lowest: neither half nor twice of it is better.
        let plain = fit.gates(&router, Some(1.0)).unwrap();
        let scale = f64::from(gates[0] / plain[0]);
        assert!(scale > 1.0, "{scale}");
    }
}
