//! Both kernels against loops in f64, and the same bits for every way to cut the rows.

use super::*;

const ROWS: usize = 150;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

fn assert_close(found: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((*found as f64 - expected).abs() < 2e-6 * largest, "{i}: {found} {expected}");
    }
}

/// Calls with first row and count of every piece.
fn cut(piece: usize, mut work: impl FnMut(usize, usize)) {
    (0..ROWS).step_by(piece).for_each(|row| work(row, piece.min(ROWS - row)));
}

#[test]
fn convolutions_in_any_pieces() {
    for (channels, taps, width) in [(600, 4, 700), (37, 3, 37), (16, 1, 20)] {
        let (x, weights, bias) =
            (numbers(ROWS * width, 1), numbers(taps * channels, 2), numbers(channels, 3));
        let at = width - channels;
        let expected = |row: usize, channel: usize| {
            let sum = (0..taps).filter(|tap| row + tap + 1 >= taps).map(|tap| {
                let past = x[(row + tap + 1 - taps) * width + at + channel];
                past as f64 * weights[tap * channels + channel] as f64
            });
            sum.sum::<f64>() + bias[channel] as f64
        };
        for isa in Isa::available() {
            let mut first: Option<Vec<f32>> = None;
            for (threads, piece) in [(1, ROWS), (2, 64), (3, 7), (2, 1)] {
                let (team, mut out) = (Team::new(threads), x.clone());
                let mut state = vec![0.0; (taps - 1) * channels];
                cut(piece, |row, rows| {
                    let (bias, activation, weights) = (Some(&bias[..]), None, &weights[..]);
                    let job = Convolution { row, rows, weights, bias, activation, channels };
                    convolve(&team, isa, &job, Output::new(&mut out, width, at), &mut state);
                });
                for row in 0..ROWS {
                    let all: Vec<f64> = (0..channels).map(|channel| expected(row, channel)).collect();
                    assert_close(&out[row * width + at..(row + 1) * width], &all);
                    assert_eq!(out[row * width..][..at], x[row * width..][..at], "others stay");
                }
                let last = &x[(ROWS - 1) * width + at..];
                assert!(taps == 1 || state[(taps - 2) * channels..] == *last, "the last inputs are kept");
                assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{isa} in pieces of {piece}");
            }
        }
    }
}

/// Two heads: state `(key_length, value_length)` of each after all rows, and the results.
fn plainly(taken: Taken, x: &[f32], factors: &[f32], (k, v): (usize, usize)) -> Vec<f64> {
    let width = 2 * k + 2 * v;
    let mut out = vec![0.0; ROWS * 2 * v];
    for head in 0..2 {
        let mut state = vec![0f64; k * v];
        for row in 0..ROWS {
            let x = &x[row * width..][..width];
            let (query, key, value) = (&x[..k], &x[k..2 * k], &x[2 * k + head * v..][..v]);
            let [decay, strength] = [0, 1].map(|i| factors[row * 4 + 2 * head + i] as f64);
            for column in 0..v {
                state.iter_mut().skip(column).step_by(v).for_each(|s| *s *= decay);
                let along = |state: &[f64], by: &[f32]| -> f64 {
                    by.iter().enumerate().map(|(i, by)| state[i * v + column] * *by as f64).sum()
                };
                let value = value[column] as f64;
                let new = match taken {
                    Taken::Difference => strength * (value - along(&state, key)),
                    Taken::Whole(_) => strength * value,
                };
                key.iter().enumerate().for_each(|(i, key)| state[i * v + column] += *key as f64 * new);
                let skipped = if let Taken::Whole(skip) = taken { skip as f64 * value } else { 0.0 };
                out[(row * 2 + head) * v + column] = along(&state, query) + skipped;
            }
        }
    }
    out
}

#[test]
fn recurrences_in_any_pieces() {
    for (taken, k, v) in [
        (Taken::Difference, 32, 64),
        (Taken::Difference, 7, 24),
        (Taken::Whole(0.5), 16, 64),
        (Taken::Whole(-1.0), 5, 33),
    ] {
        let width = 2 * k + 2 * v;
        let mut x = numbers(ROWS * width, 4);
        // Keys of length 1, as models have them: the correction is stable then.
        x.chunks_exact_mut(k).for_each(|part| {
            let length = part.iter().map(|x| x * x).sum::<f32>().sqrt().max(0.1);
            part.iter_mut().for_each(|x| *x /= length);
        });
        let factors: Vec<f32> = numbers(ROWS * 4, 5).iter().map(|x| 0.5 + 0.49 * x).collect();
        let expected = plainly(taken, &x, &factors, (k, v));
        let head_len = k * v.next_multiple_of(STATE_COLUMNS);
        for isa in Isa::available() {
            let mut first: Option<Vec<f32>> = None;
            for (threads, piece) in [(1, ROWS), (2, 64), (3, 7), (2, 1)] {
                let (team, mut out) = (Team::new(threads), vec![0.0; ROWS * 2 * v]);
                let mut state = vec![0.0; 2 * head_len];
                cut(piece, |row, rows| {
                    let job = Scan {
                        x: &x,
                        width,
                        row,
                        rows,
                        heads: 2,
                        key_length: k,
                        value_length: v,
                        factors: &factors,
                    };
                    let head = |head| ScanHead { query: 0, key: k, value: 2 * k + head * v, taken };
                    scan(&team, isa, &job, head, &mut state, Output::new(&mut out, 2 * v, 0));
                });
                assert_close(&out, &expected);
                assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{isa} in pieces of {piece}");
            }
        }
    }
}
