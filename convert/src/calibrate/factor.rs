//! Second moments of inputs into the factors of error compensation: a Cholesky decomposition from the last column to the
//! first, in f64, after what keeps it sound where a text says little.

use moewe_engine::eval::moments::Sum;
use moewe_engine::quant::Factor;

/// Added to every column's moment, as a share of their mean: GPTQ's usual one.
const DAMPING: f64 = 0.01;

/// What experts of a layer that read the same inputs have seen together.
pub(crate) struct Prior {
    rows: usize,
    spans: Vec<Vec<f64>>,
}

impl Prior {
    pub(crate) fn of<'a>(sums: impl Iterator<Item = &'a Sum>) -> Option<Self> {
        sums.fold(None, |prior: Option<Self>, sum| {
            let zeros = || sum.spans.iter().map(|span| vec![0.0; span.len()]).collect();
            let mut prior = prior.unwrap_or_else(|| Self { rows: 0, spans: zeros() });
            prior.rows += sum.rows;
            for (total, span) in prior.spans.iter_mut().zip(&sum.spans) {
                total.iter_mut().zip(span).for_each(|(total, &value)| *total += f64::from(value));
            }
            Some(prior)
        })
    }
}

/// One factor per span of columns. An expert leans on `prior` as if it had seen a quarter as many tokens of the others as
/// it has columns.
pub(crate) fn factors(sum: &Sum, prior: Option<&Prior>) -> Vec<Factor> {
    let lean = |prior: &Prior| sum.columns as f64 / 4.0 / prior.rows.max(1) as f64;
    let spans = sum.spans.iter().enumerate().map(|(i, span)| {
        let mut moments: Vec<f64> = span.iter().map(|&value| f64::from(value)).collect();
        if let Some(prior) = prior {
            moments.iter_mut().zip(&prior.spans[i]).for_each(|(value, &all)| *value += lean(prior) * all);
        }
        factor(&mut moments)
    });
    spans.collect()
}

/// Decomposes `(n, n)` moments, of which the lower triangle counts, into `(1 + U) * diagonal * transpose(1 + U)`.
fn factor(moments: &mut [f64]) -> Factor {
    let n = moments.len().isqrt();
    let mean = (0..n).map(|k| moments[k * n + k]).sum::<f64>() / n as f64;
    // Where no input was ever other than zero, all columns are alike.
    let (scale, damping) = if mean > 0.0 { (1.0 / mean, DAMPING) } else { (0.0, 1.0) };
    moments.iter_mut().for_each(|value| *value *= scale);
    (0..n).for_each(|k| moments[k * n + k] += damping);
    // In place, from below: row k becomes column k of `U` times the square root of its weight.
    for k in (0..n).rev() {
        let (above, below) = moments.split_at_mut((k + 1) * n);
        let row = &mut above[k * n..];
        for other in below.chunks_exact(n) {
            let factor = other[k];
            row[..=k].iter_mut().zip(&other[..=k]).for_each(|(value, &other)| *value -= factor * other);
        }
        let root = row[k].max(damping * 1e-6).sqrt();
        row[..=k].iter_mut().for_each(|value| *value /= root);
    }
    let weights: Vec<f64> = (0..n).map(|k| moments[k * n + k]).collect();
    let carried = moments.chunks_exact(n).zip(&weights);
    let carried = carried.flat_map(|(row, &root)| row.iter().map(move |&value| (value / root) as f32));
    Factor::new(carried.collect(), weights.iter().map(|&root| (root * root) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_multiplies_back_to_the_moments() {
        let n = 24;
        let mut moments = vec![0.0; n * n];
        for token in 0..40 {
            let input: Vec<f64> =
                (0..n).map(|i| (((i * 31 + token * 17) % 23) as f64 - 11.0) / 7.0).collect();
            for i in 0..n {
                (0..=i).for_each(|j| moments[i * n + j] += input[i] * input[j]);
            }
        }
        let mean = (0..n).map(|k| moments[k * n + k]).sum::<f64>() / n as f64;
        let expected = |i: usize, j: usize| moments[i * n + j] / mean + if i == j { DAMPING } else { 0.0 };
        let factor = factor(&mut moments.clone());
        let u = |i: usize, k: usize| match i.cmp(&k) {
            std::cmp::Ordering::Less => f64::from(factor.carried(k)[i]),
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => 0.0,
        };
        for i in 0..n {
            for j in 0..=i {
                let product: f64 = (0..n).map(|k| u(i, k) * f64::from(factor.weights()[k]) * u(j, k)).sum();
                assert!((product - expected(i, j)).abs() < 1e-5, "{i} {j}: {product}");
            }
        }
    }

    #[test]
    fn inputs_that_were_never_there_give_equal_weights() {
        let factor = factor(&mut [0.0; 64]);
        assert!(factor.weights().iter().all(|&weight| weight == 1.0));
        assert!((0..8).all(|k| factor.carried(k).iter().all(|&u| u == 0.0)));
    }
}
