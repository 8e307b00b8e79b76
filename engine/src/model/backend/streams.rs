//! Several residual streams on the host: their weights out of raw sums, and rows mixed by them.

use super::super::streams::{Mixing, Streams};
use super::host::{HostBuffer, each_row};
use crate::ops::{sigmoid, softmax};
use crate::threads::Team;

/// `weights` become what they are to be, and `out` the mixture of `x` that a half reads.
pub(super) fn open(
    team: &Team,
    (streams, mixing): (Streams, &Mixing),
    weights: &mut HostBuffer,
    x: &HostBuffer,
    out: &mut HostBuffer,
) {
    let width = x.width() / streams.count;
    each_row(team, weights, |_, weights| choose(streams, mixing, weights));
    out.resize(x.rows(), width);
    each_row(team, out, |row, out| {
        out.fill(0.0);
        for (x, weight) in x.row(row).chunks_exact(width).zip(weights.row(row)) {
            out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
        }
    });
}

/// Weights of a row: of each stream for the input; then, of a half of a layer, of the output for each stream, and from
/// each stream (rows of a matrix) to each (columns), which rows and columns that sum up to one have come near to.
fn choose(streams: Streams, mixing: &Mixing, weights: &mut [f32]) {
    let Streams { count, epsilon, .. } = streams;
    for (i, (weight, base)) in weights.iter_mut().zip(&*mixing.base).enumerate() {
        *weight = *weight * mixing.scale[(i / count).min(2)] + base;
    }
    let (input, rest) = weights.split_at_mut(count);
    input.iter_mut().for_each(|weight| *weight = sigmoid(*weight) + epsilon);
    if rest.is_empty() {
        return;
    }
    let (output, between) = rest.split_at_mut(count);
    output.iter_mut().for_each(|weight| *weight = 2.0 * sigmoid(*weight));
    for row in between.chunks_exact_mut(count) {
        softmax(row);
        row.iter_mut().for_each(|weight| *weight += epsilon);
    }
    divide_columns(between, count, epsilon);
    for _ in 1..streams.iterations {
        for row in between.chunks_exact_mut(count) {
            let sum = row.iter().sum::<f32>() + epsilon;
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        divide_columns(between, count, epsilon);
    }
}

fn divide_columns(between: &mut [f32], count: usize, epsilon: f32) {
    for column in 0..count {
        let sum = between.iter().skip(column).step_by(count).sum::<f32>() + epsilon;
        between.iter_mut().skip(column).step_by(count).for_each(|weight| *weight /= sum);
    }
}

/// Columns of a row that are mixed at a time.
const PIECE: usize = 256;

/// Mixes the streams of `x` and adds `added` to each.
pub(super) fn close(
    team: &Team,
    streams: Streams,
    weights: &HostBuffer,
    added: &HostBuffer,
    x: &mut HostBuffer,
) {
    let (count, width) = (streams.count, x.width() / streams.count);
    each_row(team, x, |row, x| {
        let (output, between) = weights.row(row)[count..].split_at(count);
        let added = added.row(row);
        for start in (0..width).step_by(PIECE) {
            let len = PIECE.min(width - start);
            let mut mixed = [[0f32; PIECE]; Streams::MOST];
            for (to, mixed) in mixed[..count].iter_mut().enumerate() {
                let mixed = &mut mixed[..len];
                mixed.iter_mut().zip(&added[start..]).for_each(|(mixed, added)| *mixed = output[to] * added);
                for from in 0..count {
                    let weight = between[from * count + to];
                    let x = &x[from * width + start..][..len];
                    mixed.iter_mut().zip(x).for_each(|(mixed, x)| *mixed += weight * x);
                }
            }
            for (to, mixed) in mixed[..count].iter().enumerate() {
                x[to * width + start..][..len].copy_from_slice(&mixed[..len]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mixes_streams_keeps_their_sum() {
        let mut between = [3.0, 1.0, 0.5, 0.1, 4.0, 0.2, 2.0, 0.3, 1.0];
        for _ in 0..40 {
            for row in between.chunks_exact_mut(3) {
                let sum = row.iter().sum::<f32>();
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
            divide_columns(&mut between, 3, 0.0);
        }
        for i in 0..3 {
            let (row, column) = (&between[3 * i..][..3], between.iter().skip(i).step_by(3));
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && (column.sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    /// One of two streams is read, the output goes to the other, and both change places.
    #[test]
    fn rows_are_mixed_from_each_stream_to_each() {
        let (width, team) = (PIECE + 3, Team::new(1));
        let mut x = HostBuffer::new(2 * width);
        x.resize(1, 2 * width);
        x.values_mut().iter_mut().enumerate().for_each(|(i, x)| *x = if i < width { 1.0 } else { 10.0 });
        let (mut weights, mut added) = (HostBuffer::new(8), HostBuffer::new(width));
        weights.resize(1, 8);
        weights.values_mut().copy_from_slice(&[0.0, 0.0, 0.0, 2.0, 0.25, 0.75, 1.0, 0.0]);
        added.resize(1, width);
        added.values_mut().fill(100.0);
        close(&team, Streams { count: 2, iterations: 1, epsilon: 0.0 }, &weights, &added, &mut x);
        assert!(x.row(0)[..width].iter().all(|x| *x == 10.25), "{:?}", x.row(0)[0]);
        assert!(x.row(0)[width..].iter().all(|x| *x == 200.75), "{:?}", x.row(0)[width]);
    }
}
