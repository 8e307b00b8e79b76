//! RMS and layer norm of one row.

/// Sixteen running sums: precise enough for long rows, and it vectorises.
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| f(*value)).sum::<f32>()
}

/// `row * weight / sqrt(mean(row²) + epsilon)` in place (Zhang & Sennrich 2019).
pub fn rms_norm(row: &mut [f32], weight: &[f32], epsilon: f32) {
    let mean = sum(row, |x| x * x) / row.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for (x, weight) in row.iter_mut().zip(weight) {
        *x = *x * factor * weight;
    }
}

/// `(row - mean) / sqrt(variance + epsilon) * weight + bias` in place, biased variance (Ba et al. 2016).
pub fn layer_norm(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) {
    let mean = sum(row, |x| x) / row.len() as f32;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for (x, weight) in row.iter_mut().zip(weight) {
        *x = (*x - mean) * factor * weight;
    }
    if let Some(bias) = bias {
        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_of_a_known_row() {
        let mut row = [1.0, 2.0, 3.0, 4.0];
        rms_norm(&mut row, &[1.0; 4], 0.0);
        assert!((row[0] - 0.365_148_4).abs() < 1e-6 && (row[3] - 1.460_593_5).abs() < 1e-6, "{row:?}");
        let mut row = [1.0, 2.0, 3.0, 4.0];
        layer_norm(&mut row, &[2.0; 4], Some(&[1.0; 4]), 0.0);
        assert!((row[0] - (1.0 - 2.0 * 1.341_640_8)).abs() < 1e-5, "{row:?}");
    }
}
