//! What a tensor is for, read from GGUF's names.

use moewe_engine::gguf::TensorName;

/// The use of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `token_embd`.
    Embedding,
    /// `output`, or the embedding of a model without one.
    Head,
    /// `attn_q` and its low-rank parts.
    Query,
    /// `attn_k`.
    Key,
    /// `attn_v`, and matrices that hold values with others.
    Value,
    /// `attn_output`.
    AttentionOutput,
    /// What layers with a state mix of their input: `ssm_in`, `shortconv.in_proj`, and `attn_gate`, which weighs the
    /// result. llama.cpp's mixes have no rule for either of the two roles.
    StateInput,
    /// What such layers yield: `ssm_out`, `shortconv.out_proj`.
    StateOutput,
    /// `ffn_gate…` and `ffn_up…`.
    Up,
    /// `ffn_down…`.
    Down,
    /// Anything else.
    Other,
}

/// The role of a tensor, which may make the logits.
pub fn role_of(name: &str, is_head: bool) -> Role {
    let own = TensorName::of(name).part;
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| own.starts_with(prefix));
    match () {
        () if is_head => Role::Head,
        () if own == "token_embd.weight" => Role::Embedding,
        () if starts(&["attn_output"]) => Role::AttentionOutput,
        () if starts(&["attn_qkv", "attn_v", "attn_kv"]) => Role::Value,
        () if starts(&["attn_k"]) => Role::Key,
        () if starts(&["attn_q"]) => Role::Query,
        () if starts(&["ssm_in.", "shortconv.in_proj.", "attn_gate."]) => Role::StateInput,
        () if starts(&["ssm_out.", "shortconv.out_proj."]) => Role::StateOutput,
        () if starts(&["ffn_gate", "ffn_up"]) => Role::Up,
        () if starts(&["ffn_down"]) => Role::Down,
        () => Role::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_roles() {
        for (name, role) in [
            ("token_embd.weight", Role::Embedding),
            ("blk.3.attn_q.weight", Role::Query),
            ("blk.3.attn_qkv.weight", Role::Value),
            ("blk.3.attn_kv_a_mqa.weight", Role::Value),
            ("blk.3.attn_k.weight", Role::Key),
            ("blk.3.attn_output.weight", Role::AttentionOutput),
            ("blk.3.ffn_gate_up_exps.weight", Role::Up),
            ("blk.3.ffn_down_shexp.weight", Role::Down),
            ("blk.3.ssm_in.weight", Role::StateInput),
            ("blk.3.attn_gate.weight", Role::StateInput),
            ("blk.3.shortconv.in_proj.weight", Role::StateInput),
            ("blk.3.ssm_out.weight", Role::StateOutput),
            ("blk.3.shortconv.out_proj.weight", Role::StateOutput),
            ("blk.3.ssm_alpha.weight", Role::Other),
            ("position_embd.weight", Role::Other),
        ] {
            assert_eq!(role_of(name, false), role, "{name}");
        }
        assert_eq!(role_of("output.weight", true), Role::Head);
    }
}
