//! Names of tensors: `blk.7.attn_q.weight` is the part `attn_q.weight` of layer 7, others belong to no layer.
//!
//! The one place that takes names apart. Which parts there are is not known here.

use std::fmt;

const PREFIX: &str = "blk.";

/// A tensor's name as layer and part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorName<'a> {
    /// The layer that it belongs to, the first is 0.
    pub layer: Option<usize>,
    /// What it is there; the whole name where there is no layer.
    pub part: &'a str,
}

impl<'a> TensorName<'a> {
    /// Takes a name apart. What is not written as [`TensorName`] writes it, such as `blk.07.attn_q`, is no layer's: every
    /// name is one part of one layer or a stranger, and comes out as it went in.
    pub fn of(name: &'a str) -> Self {
        let stranger = Self { layer: None, part: name };
        let Some((number, part)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else {
            return stranger;
        };
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit())
            && (number == "0" || !number.starts_with('0'))
            && !part.is_empty();
        match number.parse() {
            Ok(layer) if is_plain => Self { layer: Some(layer), part },
            _ => stranger,
        }
    }

    /// A part of a layer.
    pub fn in_layer(layer: usize, part: &'a str) -> Self {
        Self { layer: Some(layer), part }
    }
}

impl fmt::Display for TensorName<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(out, "{PREFIX}{layer}.{}", self.part),
            None => out.write_str(self.part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_come_apart() {
        let layer = TensorName::in_layer;
        assert_eq!(TensorName::of("blk.3.attn_q.weight"), layer(3, "attn_q.weight"));
        assert_eq!(TensorName::of("blk.12.ffn_gate.0.weight"), layer(12, "ffn_gate.0.weight"));
        assert_eq!(TensorName::of("blk.0.ssm_a"), layer(0, "ssm_a"));
    }

    #[test]
    fn strangers_stay_strangers() {
        for name in [
            "output.weight",
            "",
            "blk.",
            "blk.3",
            "blk.3.",
            "blk..a",
            "blk.x.a",
            "blk.+3.a",
            "blk.-3.a",
            "blk.03.a",
            "blk. 3.a",
            "blk.٣.a",
            "blk.99999999999999999999999.a",
            "Blk.3.a",
            "mm.blk.3.a",
        ] {
            assert_eq!(TensorName::of(name), TensorName { layer: None, part: name });
        }
    }

    proptest! {
        #[test]
        fn a_part_of_a_layer_is_read_as_it_is_written(layer: usize, part in ".+") {
            let name = TensorName::in_layer(layer, &part);
            let written = name.to_string();
            prop_assert_eq!(TensorName::of(&written), name);
        }

        #[test]
        fn every_name_comes_out_as_it_went_in(name in "(blk)?\\.?[0-9+]{0,3}\\.?.{0,8}") {
            let read = TensorName::of(&name).to_string();
            prop_assert_eq!(read, name);
        }
    }
}
