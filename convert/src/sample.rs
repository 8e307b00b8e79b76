//! How much a format changes a tensor, measured on some of its rows.

use crate::tensor::Tensor;
use moewe_engine::Result;
use moewe_engine::quant::Format;

/// Weights of a tensor on which formats are compared.
const SAMPLE: u64 = 16 << 10;

/// The mean square of what `format` changes in some rows of `tensor`, over that of their weights, each column weighed by
/// the `importance` `(experts, columns)` of its inputs.
///
/// # Errors
/// Rows that cannot be read.
pub(crate) fn relative_error(tensor: &Tensor, format: &Format, importance: Option<&[f32]>) -> Result<f64> {
    let subject = &tensor.subject;
    let (columns, rows) = (subject.columns(), subject.rows());
    let sampled = (SAMPLE / columns).clamp(1, rows.max(1));
    let (Some(quantize), Some(row_bytes)) = (format.quantize, format.bytes_for(columns)) else {
        return Ok(0.0);
    };
    let (mut weights, mut back) = (vec![0f32; columns as usize], vec![0f32; columns as usize]);
    let mut bytes = vec![0u8; row_bytes as usize];
    let (mut difference, mut total) = (0f64, 0f64);
    for i in 0..sampled {
        let row = i * rows / sampled;
        tensor.contents.read(row..row + 1, &mut weights)?;
        let start = (row / subject.rows_per_expert() * columns) as usize;
        let own = importance.map(|all| &all[start..start + columns as usize]);
        quantize(&weights, own, &mut bytes);
        (format.dequantize)(&bytes, &mut back);
        let pairs = weights.iter().zip(&back).enumerate().filter(|(_, (weight, _))| weight.is_finite());
        for (k, (&weight, &back)) in pairs {
            let matters = own.map_or(1.0, |own| f64::from(own[k]));
            difference += matters * f64::from(weight - back).powi(2);
            total += matters * f64::from(weight).powi(2);
        }
    }
    Ok(if total > 0.0 { difference / total } else { 0.0 })
}
