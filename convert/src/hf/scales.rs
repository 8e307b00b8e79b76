//! Weights that are stored with scales beside them: 8-bit floats with a factor per tensor, row or tile (DeepSeek,
//! compressed-tensors, ModelOpt), compressed-tensors' whole numbers of 4 bits, and OpenAI's MXFP4 blocks.

use super::params::Params;
use super::view::{Elements, View};
use crate::checkpoint::{Checkpoint, Dtype, Tensor, row_major};
use moewe_engine::{Error, Result};

/// Names of the factors beside a tensor.
const FACTORS: [&str; 2] = ["_scale_inv", "_scale"];

/// What the factors beside a tensor may be called. DeepSeek V4 has them in the place of the weights.
pub(super) fn names_of_factors(name: &str) -> impl Iterator<Item = String> {
    let beside = FACTORS.iter().map(move |end| format!("{name}{end}"));
    beside.chain(in_place(name))
}

/// The name of scales that stand in the place of the weights: `w1.scale` for `w1.weight`.
pub(super) fn in_place(name: &str) -> Option<String> {
    name.strip_suffix(".weight").map(|stem| format!("{stem}.scale"))
}

/// What conversion does with packed weights, by `quant_method`.
///
/// # Errors
/// Weights that another program has packed; their tensors would all be unknown.
pub(crate) fn refuse_packed(config: &serde_json::Value) -> Result<()> {
    let text = &config["text_config"]["quantization_config"];
    let quantization = if text.is_object() { text } else { &config["quantization_config"] };
    if quantization.is_null() {
        return Ok(());
    }
    let method = quantization["quant_method"].as_str().unwrap_or("nothing");
    let format = quantization["format"].as_str().or(quantization["quant_algo"].as_str()).unwrap_or_default();
    let is_read = match method {
        "fp8" | "fbgemm_fp8" | "mxfp4" => true,
        "compressed-tensors" if format == "pack-quantized" => return refuse_other_integers(quantization),
        "compressed-tensors" => matches!(format, "float-quantized" | "naive-quantized"),
        "modelopt" => format == "FP8",
        _ => false,
    };
    if is_read {
        return Ok(());
    }
    let format = if format.is_empty() { String::new() } else { format!(" as {format:?}") };
    Err(Error::unsupported(
        format!("config: weights packed by {method:?}{format} (quantization_config)"),
        "convert the original checkpoint; F32, F16, BF16, FP8, MXFP4 and compressed-tensors' int4 are read",
    ))
}

/// Of the integers that compressed-tensors packs, those are read whose codes mean the same in every group.
fn refuse_other_integers(quantization: &serde_json::Value) -> Result<()> {
    let groups = quantization["config_groups"].as_object().filter(|groups| !groups.is_empty());
    let groups = groups.ok_or_else(|| {
        let place = "config, quantization_config";
        Error::malformed(place, "config_groups, which say how pack-quantized weights are packed", "none")
    })?;
    for (name, group) in groups {
        let weights = &group["weights"];
        let is_read = weights["num_bits"] == 4
            && weights["type"] == "int"
            && weights["symmetric"] == true
            && matches!(weights["strategy"].as_str(), Some("group" | "channel"));
        if !is_read {
            return Err(Error::unsupported(
                format!("config: weights packed as {weights} (quantization_config, {name})"),
                "of integers, symmetric ones of 4 bits with a scale per group or row are read",
            ));
        }
    }
    Ok(())
}

/// Whether the configuration says that 8-bit floats have factors.
pub(super) fn wants_factors(params: &Params) -> bool {
    params.get(&["quantization_config.quant_method"]).is_some_and(|(_, method)| method != "mxfp4")
}

/// 8-bit floats with one factor per tile; `quantization_config` says how large a tile is where the factors do not.
pub(super) fn tiled<'c>(
    checkpoint: &'c Checkpoint,
    params: &Params,
    tensor: &'c Tensor,
    scales: &'c Tensor,
) -> Result<Elements<'c>> {
    let found = || format!("{:?} with {:?} {:?}", tensor.shape, scales.shape, scales.dtype);
    let broken = |expected: String| Error::malformed(format!("tensor {}", tensor.name), expected, found());
    let rows = tensor.shape.iter().rev().skip(1).product::<u64>();
    let columns = tensor.shape.last().copied().filter(|&columns| columns > 0 && rows > 0);
    let columns = columns.ok_or_else(|| broken("a matrix".into()))?;
    let tile = tile(params, tensor, scales, rows, columns).ok_or_else(|| {
        broken(format!("a factor per tensor, per row or per tile of {:?}", stated_tile(params)))
    })?;
    if !matches!(scales.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16 | Dtype::F8E8M0) {
        return Err(broken("factors of F32, BF16, F16 or E8M0".into()));
    }
    if !is_row_major(tensor) || !is_row_major(scales) {
        return Err(broken("rows one after the other".into()));
    }
    Ok(Elements::Tiled {
        dtype: tensor.dtype,
        bytes: checkpoint.elements(tensor),
        factor_dtype: scales.dtype,
        factors: checkpoint.elements(scales),
        columns,
        tile,
    })
}

/// Height and width of a tile, all matrices of a stack seen as one; `None` where no tile fits the number of factors.
fn tile(params: &Params, tensor: &Tensor, scales: &Tensor, rows: u64, columns: u64) -> Option<[u64; 2]> {
    let factors: u64 = scales.shape.iter().product();
    let of_matrix = tensor.shape.iter().rev().nth(1).copied().unwrap_or(1);
    if factors == 1 {
        return Some([rows, columns]);
    }
    let stated = stated_tile(params);
    let mut expected: Vec<u64> = tensor.shape[..tensor.shape.len().saturating_sub(2)].to_vec();
    let outer = expected.len();
    expected.extend([of_matrix.div_ceil(stated[0]), columns.div_ceil(stated[1])]);
    let whole = outer == 0 || of_matrix.is_multiple_of(stated[0]); // tiles do not reach into the next matrix
    if scales.shape == expected && whole {
        return Some(stated);
    }
    // One per row, or one per matrix of a stack.
    let without_ones =
        |shape: &[u64]| -> Vec<u64> { shape.iter().copied().filter(|&len| len != 1).collect() };
    let flat = without_ones(&scales.shape);
    match () {
        () if tensor.shape.len() < 2 => None,
        () if flat == without_ones(&tensor.shape[..=outer]) => Some([1, columns]),
        () if outer > 0 && flat == without_ones(&tensor.shape[..outer]) => Some([of_matrix, columns]),
        () => None,
    }
}

fn stated_tile(params: &Params) -> [u64; 2] {
    [0, 1].map(|axis| {
        let listed = params.get(&["quantization_config.weight_block_size"]);
        listed.and_then(|(_, list)| list.get(axis)?.as_u64()).filter(|&size| size > 0).unwrap_or(128)
    })
}

/// Whole numbers `(rows, columns / 8)` of eight codes each, from the lowest bits up, with scales `(rows, groups)`; the
/// shape is stored beside them, as the last word of a row may be part empty.
pub(super) fn int4<'c>(
    checkpoint: &'c Checkpoint,
    packed: &'c Tensor,
    scales: &'c Tensor,
    shape: &'c Tensor,
) -> Result<View<'c>> {
    let found = || format!("{:?} with scales {:?} {:?}", packed.shape, scales.shape, scales.dtype);
    let broken = |expected: &str| Error::malformed(format!("tensor {}", packed.name), expected, found());
    let [rows, words] = packed.shape[..] else { return Err(broken("a matrix of words")) };
    let columns = words.checked_mul(8).filter(|&columns| columns > 0 && packed.dtype == Dtype::I32);
    let columns = columns.ok_or_else(|| broken("words of type I32"))?;
    if stored_shape(checkpoint, shape) != Some([rows, columns]) {
        return Err(broken(&format!("a weight_shape of [{rows}, {columns}]: eight codes a word")));
    }
    let groups = match scales.shape[..] {
        [of, groups] if of == rows && groups > 0 && columns % groups == 0 => groups,
        [of] if of == rows => 1,
        _ => return Err(broken("scales for each row, as many in all")),
    };
    if !matches!(scales.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        return Err(broken("scales of F32, BF16 or F16"));
    }
    if !is_row_major(packed) || !is_row_major(scales) {
        return Err(broken("rows one after the other"));
    }
    let elements = Elements::Int4 {
        codes: checkpoint.elements(packed),
        scale_dtype: scales.dtype,
        scales: checkpoint.elements(scales),
        group: columns / groups,
    };
    Ok(View::new(elements, &[rows, columns], &[columns, 1]))
}

/// Two lengths in a tensor of their own.
fn stored_shape(checkpoint: &Checkpoint, shape: &Tensor) -> Option<[u64; 2]> {
    let bytes = checkpoint.elements(shape);
    let numbers: Vec<i64> = match shape.dtype {
        Dtype::I64 => bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect(),
        _ => return None,
    };
    let [rows, columns] = numbers[..] else { return None };
    Some([rows.try_into().ok()?, columns.try_into().ok()?])
}

/// Blocks `[…, columns / 32, 16]` with scales `[…, columns / 32]` as one tensor `[…, columns]`.
pub(super) fn mxfp4<'c>(
    checkpoint: &'c Checkpoint,
    name: &str,
    blocks: &'c Tensor,
    scales: &'c Tensor,
) -> Result<View<'c>> {
    let place = || format!("tensor {name}");
    let is_byte = |tensor: &Tensor| matches!(tensor.dtype, Dtype::U8 | Dtype::F8E8M0);
    let sound = |tensor: &Tensor| is_byte(tensor) && is_row_major(tensor);
    let outer = match &blocks.shape[..] {
        [outer @ .., 16] if *outer == scales.shape && sound(blocks) && sound(scales) && outer.len() >= 2 => {
            outer
        }
        _ => {
            let found = format!("{:?} with scales {:?}", blocks.shape, scales.shape);
            return Err(Error::malformed(place(), "bytes of shape […, 16] with scales of shape […]", found));
        }
    };
    let mut shape = outer.to_vec();
    if let Some(last) = shape.last_mut() {
        *last *= 32; // there are half as many bytes in memory: no overflow
    }
    let strides = row_major(&shape).ok_or_else(|| Error::malformed(place(), "a possible shape", "more"))?;
    let elements =
        Elements::Mxfp4 { codes: checkpoint.elements(blocks), exponents: checkpoint.elements(scales) };
    Ok(View::new(elements, &shape, &strides))
}

/// Rows of codes `[rows, columns / 2]`, the earlier of two in the low half, with scales `[rows, columns / 32]`.
pub(super) fn mxfp4_rows<'c>(
    checkpoint: &'c Checkpoint,
    codes: &'c Tensor,
    scales: &'c Tensor,
) -> Result<View<'c>> {
    let is_sound = matches!(codes.dtype, Dtype::I8 | Dtype::U8)
        && matches!(scales.dtype, Dtype::U8 | Dtype::F8E8M0)
        && is_row_major(codes)
        && is_row_major(scales);
    let shape = match (&codes.shape[..], &scales.shape[..]) {
        (&[rows, bytes], &[of, groups])
            if is_sound && rows == of && groups.checked_mul(16) == Some(bytes) =>
        {
            [rows, groups * 32] // there are half as many bytes in memory: no overflow
        }
        _ => {
            let found = format!("{:?} with scales {:?} {:?}", codes.shape, scales.shape, scales.dtype);
            let expected = "bytes of two codes each, and a scale (E8M0) for every 32 codes";
            return Err(Error::malformed(format!("tensor {}", codes.name), expected, found));
        }
    };
    let elements =
        Elements::Mxfp4 { codes: checkpoint.elements(codes), exponents: checkpoint.elements(scales) };
    Ok(View::new(elements, &shape, &[shape[1], 1]))
}

fn is_row_major(tensor: &Tensor) -> bool {
    row_major(&tensor.shape).is_some_and(|strides| strides == tensor.strides)
}
