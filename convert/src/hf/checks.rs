//! Numbers that no model can have: heads that do not divide, more experts per token than there are.

use super::params::{Dim, Params};
use moewe_engine::{Error, Result};
use serde_json::{Map, Value};

/// Refuses impossible numbers by name.
pub(super) fn possible(params: &Params) -> Result<()> {
    let (heads, of_keys) = (params.dim(Dim::Heads)?, params.dim(Dim::HeadsKv)?);
    if of_keys > heads || heads % of_keys != 0 {
        let expected = format!("a number of key-value heads that divides {heads}");
        return Err(Error::malformed("config, num_key_value_heads", expected, of_keys));
    }
    let has_experts = match params.maybe(Dim::Experts)? {
        None => false,
        Some(experts) => experts > 0 || !params.is("granitemoehybrid"), // which may do without
    };
    if !has_experts {
        return Ok(());
    }
    let (experts, used) = (params.dim(Dim::Experts)?, params.dim(Dim::ExpertsUsed)?);
    if used > experts {
        return Err(Error::malformed(
            "config, num_experts_per_tok",
            format!("at most {experts} experts"),
            used,
        ));
    }
    Ok(())
}

/// Refuses models whose positions see what follows them. transformers reads both keys in every class.
pub(super) fn causal(config: &Map<String, Value>) -> Result<()> {
    for (key, refused) in [("is_causal", false), ("use_bidirectional_attention", true)] {
        if config.get(key) == Some(&Value::Bool(refused)) {
            return Err(Error::unsupported(
                format!("config: {key} {refused}: positions see what follows them"),
                "such models embed texts; they do not continue them",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_causal_attention_is_converted() {
        for (config, expected) in [
            (json!({}), None),
            (json!({"is_causal": true, "use_bidirectional_attention": false}), None),
            (json!({"is_causal": false}), Some("is_causal")),
            (json!({"use_bidirectional_attention": true}), Some("use_bidirectional_attention")),
        ] {
            let found = causal(config.as_object().unwrap()).err().map(|error| error.to_string());
            assert_eq!(found.is_some(), expected.is_some(), "{config}");
            assert!(expected.is_none_or(|key| found.unwrap().contains(key)));
        }
    }
}
