//! One format for all matrices, as far as their rows allow it.

use super::question::{Choice, Question, by_name, is_quantizable, nearest, plain};
use moewe_engine::quant::{Format, Kind};

/// The format of one tensor when `wanted` is asked for.
pub(super) fn choose(question: Question, wanted: &'static Format) -> Choice {
    if !is_quantizable(question) {
        return plain(by_name("F32"));
    }
    if wanted.kind == Kind::Float {
        return plain(wanted);
    }
    if let Some(stored) = question.original()
        && stored.bits_per_weight() <= wanted.bits_per_weight()
    {
        let because = (wanted != stored).then_some("the checkpoint has it so: its bits are kept");
        return Choice { format: stored, because };
    }
    let six = by_name("Q6_K");
    let (aim, because) = if question.is_head && wanted.bits_per_weight() < six.bits_per_weight() {
        (six, Some("the head decides between tokens"))
    } else {
        (wanted, None)
    };
    let choice = nearest(question, aim);
    Choice { because: choice.because.or(because), ..choice }
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
            ("blk.0.attn_q.weight", &[192, 192], false, "IQ2_XS", "IQ4_NL"),
            ("blk.0.attn_q.weight", &[192, 192], false, "TQ1_0", "Q4_0"),
            ("blk.0.attn_q.weight", &[192, 48], false, "Q4_K", "F16"),
            ("token_embd.weight", &[320, 64], false, "Q4_0", "Q4_0"),
            ("token_embd.weight", &[320, 64], true, "BF16", "BF16"),
        ];
        for &(name, shape, is_head, wanted, expected) in cases {
            let question = Question {
                name,
                shape,
                stored: None,
                kept: None,
                is_original: false,
                is_head,
                matters: None,
            };
            let choice = choose(question, by_name(wanted));
            assert_eq!(choice.format.name, expected, "{name} {shape:?} {wanted}");
        }
    }

    #[test]
    fn originals_stay_unless_floats_or_fewer_bits_are_wanted() {
        let cases = [
            ("MXFP4", "Q8_0", "MXFP4"),
            ("MXFP4", "Q4_0", "MXFP4"),
            ("MXFP4", "F32", "F32"),
            ("MXFP4", "Q3_K", "Q3_K"),
            ("Q4_0", "Q4_0", "Q4_0"),
            ("Q4_0", "Q4_K", "Q4_0"),
            ("Q4_0", "Q6_K", "Q4_0"),
            ("Q4_0", "Q2_K", "Q2_K"),
            ("Q4_0", "BF16", "BF16"),
        ];
        for (stored, wanted, expected) in cases {
            let question = |is_original| Question {
                name: "blk.0.ffn_up_exps.weight",
                shape: &[4, 256, 256],
                stored: Format::by_name(stored),
                kept: Format::by_name(stored),
                is_original,
                is_head: false,
                matters: None,
            };
            let choice = choose(question(true), by_name(wanted));
            assert_eq!(choice.format.name, expected, "{stored} as {wanted}");
            assert_eq!(choice.because.is_some(), wanted != expected);
            assert_eq!(choose(question(false), by_name(wanted)).format.name, wanted);
        }
    }
}
