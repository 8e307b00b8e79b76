//! What the source has stays as it is: blocks their bits, matrices their floats.

use super::question::{Choice, Question, by_name, is_quantizable, plain};
use moewe_engine::{Error, Result};

/// The formats that say just as much as the source; those that are given by name go first.
///
/// # Errors
/// A matrix that the source has in no one format; the message names it.
pub(super) fn choose(questions: &[Question], fixed: &[Option<Choice>]) -> Result<Vec<Choice>> {
    let one = |(question, fixed): (&Question, &Option<Choice>)| match (fixed, question.stored, question.kept)
    {
        (Some(choice), ..) => Ok(*choice),
        (None, Some(stored), _) => Ok(plain(stored)),
        (None, None, Some(kept)) if is_quantizable(*question) => Ok(plain(kept)),
        _ if !is_quantizable(*question) => Ok(plain(by_name("F32"))),
        _ => Err(Error::unsupported(
            format!("{} is in no one format that could be kept", question.name),
            "its parts differ or are computed: say --bits or --format, or give it one with --tensor REGEX=FORMAT",
        )),
    };
    questions.iter().zip(fixed).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::quant::Format;

    #[test]
    fn blocks_and_floats_stay() {
        let of = |name, stored: Option<&str>, kept: Option<&str>| {
            let [stored, kept] = [stored, kept].map(|name| name.and_then(Format::by_name));
            let shape = &[64, 64];
            let question =
                Question { name, shape, stored, kept, is_original: false, is_head: false, matters: None };
            choose(&[question], &[None]).map(|choices| choices[0].format.name)
        };
        let matrix = "blk.0.ffn_up_exps.weight";
        assert_eq!(of(matrix, Some("IQ2_XXS"), Some("IQ2_XXS")).unwrap(), "IQ2_XXS");
        assert_eq!(of(matrix, None, Some("BF16")).unwrap(), "BF16");
        assert_eq!(of("blk.0.attn_norm.weight", None, Some("BF16")).unwrap(), "F32");
        assert_eq!(of("blk.0.ffn_gate_inp.weight", None, Some("BF16")).unwrap(), "F32");
        let error = of(matrix, None, None).unwrap_err().to_string();
        assert!(error.contains(matrix) && error.contains("--bits"), "{error}");
    }
}
