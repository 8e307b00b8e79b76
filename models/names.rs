//! The names under which config.json files hold a model's sizes, for `moewe convert` and `moewe train` alike: what one
//! reads the other must read, or a training is of another model than its conversion.
//!
//! Both include this file as a module of their own, as neither may depend on the other.

/// One size a row: transformers' usual name in front, then those of other code. Where several stand in one
/// configuration, the converter takes the first.
const NAMES: &[&[&str]] = &[
    &["vocab_size"],
    &["max_position_embeddings", "n_positions", "max_seq_len", "context_len"],
    &["hidden_size", "n_embd", "d_model", "dim"],
    &["num_hidden_layers", "n_layer", "n_layers"],
    &["num_attention_heads", "n_head", "n_heads"],
    &["num_key_value_heads", "n_kv_heads"],
    &["head_dim"],
    &["intermediate_size", "ff_dim", "d_ff"],
    &["moe_intermediate_size"],
    &["shared_expert_intermediate_size", "shared_intermediate_size"],
    &["num_local_experts", "num_experts", "n_routed_experts", "n_experts"],
    &["num_experts_per_tok", "n_experts_active", "top_k_experts", "top_k"],
    &["n_shared_experts", "num_shared_experts"],
    &["q_lora_rank"],
    &["kv_lora_rank"],
    &["qk_rope_head_dim"],
    &["qk_nope_head_dim"],
    &["v_head_dim"],
    &["linear_conv_kernel_dim", "conv_kernel", "mamba_d_conv", "conv_L_cache"],
    &["linear_num_key_heads"],
    &["linear_num_value_heads"],
    &["linear_key_head_dim"],
    &["linear_value_head_dim"],
    &["mamba_num_heads", "mamba_n_heads"],
    &["mamba_head_dim", "mamba_d_head"],
    &["n_groups", "mamba_n_groups"],
    &["ssm_state_size", "mamba_d_state"],
    &["moe_latent_size"],
    &["index_n_heads"],
    &["index_head_dim"],
    &["index_topk"],
];

/// All names of the size that `name` is one of; none for what is no size.
pub(crate) fn names_of(name: &str) -> &'static [&'static str] {
    NAMES.iter().find(|row| row.contains(&name)).copied().unwrap_or_default()
}
