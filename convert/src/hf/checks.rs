//! Numbers that no model can have: heads that do not divide, more experts per token than there are.

use super::params::{Dim, Params};
use moewe_engine::{Error, Result};

/// Refuses impossible numbers by name.
pub(super) fn possible(params: &Params) -> Result<()> {
    let (heads, of_keys) = (params.dim(Dim::Heads)?, params.dim(Dim::HeadsKv)?);
    if of_keys > heads || heads % of_keys != 0 {
        let expected = format!("a number of key-value heads that divides {heads}");
        return Err(Error::malformed("config, num_key_value_heads", expected, of_keys));
    }
    if params.maybe(Dim::Experts)?.is_none() {
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
