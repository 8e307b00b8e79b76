//! Which format a tensor gets. The one question that quantization is about stands here alone, so that better answers
//! (per role, per layer, from measurements) replace this file's inside and nothing else.

use moewe_engine::quant::{F16, F32, Float, Format, Kind};

/// What is known of a tensor when its format is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// GGUF's name.
    pub name: &'a str,
    /// Lengths of the axes, slowest first.
    pub shape: &'a [u64],
    /// The block format that the source has it in, where its bytes could be kept.
    pub stored: Option<&'static Format>,
    /// Whether this matrix makes the logits: `output.weight`, or the embedding where there is none.
    pub is_head: bool,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What the tensor is written in.
    pub format: &'static Format,
    /// Why it is not what was asked for, where a person may wonder.
    pub because: Option<&'static str>,
}

/// The format of one tensor when `wanted` is asked for.
pub fn choose(question: Question, wanted: &'static Format) -> Choice {
    let plain = |format| Choice { format, because: None };
    if !is_quantizable(question) {
        return plain(by_id(F32::ID));
    }
    if wanted.kind == Kind::Float {
        return plain(wanted);
    }
    if let Some(stored) = question.stored
        && stored.name == "MXFP4"
        && wanted != stored
    {
        return Choice { format: stored, because: Some("the checkpoint holds MXFP4: its bits are kept") };
    }
    let six = by_name("Q6_K");
    let (aim, because) = if question.is_head && wanted.bits_per_weight() < six.bits_per_weight() {
        (six, Some("the head decides between tokens"))
    } else {
        (wanted, None)
    };
    let format = nearest(question, aim);
    let because = if format == aim { because } else { Some("the rows are no multiple of its blocks") };
    Choice { format, because }
}

/// `aim`, or where its blocks do not divide the rows, the smallest format of at least its precision whose do:
/// llama.cpp's choice (tensor_type_fallback), for the sake of equal sizes.
fn nearest(question: Question, aim: &'static Format) -> &'static Format {
    if fits(question, aim) {
        return aim;
    }
    let small = match aim.name {
        "Q2_K" | "Q3_K" => "Q4_0",
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        "IQ4_XS" => "IQ4_NL",
        _ => "Q8_0",
    };
    [by_name(small), by_name("Q8_0")]
        .into_iter()
        .find(|format| fits(question, format))
        .unwrap_or(by_id(F16::ID))
}

/// Matrices are; what is small, added or decisive is not: norms, biases, routers, positions, sinks.
fn is_quantizable(question: Question) -> bool {
    let Question { name, shape, .. } = question;
    let small =
        ["_norm.weight", ".bias", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "attn_sinks.weight"];
    let is_matrix = shape.len() >= 2 && shape.iter().rev().skip(1).any(|&len| len > 1);
    is_matrix && name != "position_embd.weight" && !small.iter().any(|ending| name.ends_with(ending))
}

fn fits(question: Question, format: &Format) -> bool {
    question.shape.last().is_some_and(|columns| columns % format.block_len as u64 == 0)
}

fn by_name(name: &str) -> &'static Format {
    Format::by_name(name).unwrap_or_else(|| by_id(F32::ID))
}

fn by_id(id: u32) -> &'static Format {
    Format::by_id(id).expect("the table has every float format")
}

/// `general.file_type`: llama.cpp's number of the commonest format (enum llama_ftype).
pub(crate) fn file_type(wanted: &Format) -> Option<u32> {
    Some(match wanted.name {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q4_1" => 3,
        "Q8_0" => 7,
        "Q5_0" => 8,
        "Q5_1" => 9,
        "Q2_K" => 10,
        "Q3_K" => 12,
        "Q4_K" => 15,
        "Q5_K" => 17,
        "Q6_K" => 18,
        "IQ4_NL" => 25,
        "IQ4_XS" => 30,
        "BF16" => 32,
        "MXFP4" => 38,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let cases: &[(&str, &[u64], bool, &str, &str)] = &[
            ("blk.0.attn_q.weight", &[64, 64], false, "Q8_0", "Q8_0"),
            ("blk.0.attn_q.weight", &[64, 48], false, "Q8_0", "F16"),
            ("blk.0.ffn_up_exps.weight", &[4, 8, 96], false, "Q4_0", "Q4_0"),
            ("blk.0.ffn_up_exps.bias", &[4, 96], false, "Q4_0", "F32"),
            ("blk.0.ffn_gate_inp.weight", &[4, 64], false, "Q4_0", "F32"),
            ("blk.0.ffn_gate_inp_shexp.weight", &[64], false, "BF16", "F32"),
            ("blk.0.attn_norm.weight", &[64], false, "F16", "F32"),
            ("position_embd.weight", &[64, 64], false, "Q8_0", "F32"),
            ("output.weight", &[320, 64], true, "Q4_0", "Q8_0"),
            ("output.weight", &[320, 256], true, "Q4_K", "Q6_K"),
            ("output.weight", &[320, 256], true, "Q8_0", "Q8_0"),
            ("blk.0.attn_q.weight", &[192, 192], false, "Q2_K", "Q4_0"),
            ("blk.0.attn_q.weight", &[192, 192], false, "Q4_K", "Q5_0"),
            ("blk.0.attn_q.weight", &[192, 192], false, "Q6_K", "Q8_0"),
            ("blk.0.attn_q.weight", &[192, 192], false, "IQ4_XS", "IQ4_NL"),
            ("blk.0.attn_q.weight", &[192, 48], false, "Q4_K", "F16"),
            ("token_embd.weight", &[320, 64], false, "Q4_0", "Q4_0"),
            ("token_embd.weight", &[320, 64], true, "BF16", "BF16"),
        ];
        for &(name, shape, is_head, wanted, expected) in cases {
            let question = Question { name, shape, stored: None, is_head };
            let choice = choose(question, by_name(wanted));
            assert_eq!(choice.format.name, expected, "{name} {shape:?} {wanted}");
        }
    }

    #[test]
    fn mxfp4_stays_unless_floats_are_wanted() {
        let question = Question {
            name: "blk.0.ffn_up_exps.weight",
            shape: &[4, 64, 64],
            stored: Format::by_name("MXFP4"),
            is_head: false,
        };
        for (wanted, expected) in [("Q8_0", "MXFP4"), ("Q4_0", "MXFP4"), ("F32", "F32")] {
            assert_eq!(choose(question, by_name(wanted)).format.name, expected);
        }
    }
}
