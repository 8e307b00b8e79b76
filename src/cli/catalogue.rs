//! MoE models that this build runs and that one can get, with what they take: `moewe list --remote`.
//!
//! A table of shapes as their makers published them. Sizes and memory are computed from these, not measured; nothing
//! asks the network whether a repository is still there.

use super::output::{self, Table};
use anyhow::Result;
use moewe_engine::model::SNAPSHOTS;
use serde_json::json;

/// When the table was written.
const DATE: &str = "November 2026";
const BITS: f64 = 4.8; // --bits 4, and about Q4_K_M
const MXFP4: f64 = 4.25;
pub(super) const POSITIONS: u64 = 4096;
pub(super) const PROGRAM: u64 = 300 << 20; // buffers of a step and the program itself

/// What attention multiplies with.
enum Attention {
    /// Heads, those of keys and values, and the width of one.
    Heads(u64, u64, u64),
    /// Heads; widths of the latent row, of its rotated part, of a key and of a value.
    Latent(u64, [u64; 4]),
    /// Where layers differ: parameters of all mixers, numbers of a position in all caches, numbers of all states.
    Mixed(u64, u64, u64),
}

/// Parameters of attention: the width of the model, columns of queries (gates included), of keys, of values, of results.
const fn attention(width: u64, columns: [u64; 4]) -> u64 {
    width * (columns[0] + columns[1] + columns[2] + columns[3])
}

/// Parameters of a mixer with a state: the width of the model, columns of its input, of its result.
const fn recurrence(width: u64, columns: u64, inner: u64) -> u64 {
    width * (columns + inner)
}

pub(super) struct Shape {
    /// The name to pull or to convert.
    name: &'static str,
    pub(super) architecture: &'static str,
    layers: u64,
    width: u64,
    vocabulary: u64,
    is_tied: bool,
    attention: Attention,
    /// Experts, how many a token uses, the width of one.
    experts: [u64; 3],
    /// The width of what all tokens pass beside their experts.
    shared: u64,
    /// Matrices of an expert: with a gate three.
    matrices: u64,
    /// Layers without experts, and their width.
    dense: [u64; 2],
    /// The repository whose config.json has these numbers.
    pub(super) source: &'static str,
    /// Billions of parameters that the makers name.
    published: f64,
    pub(super) bits: f64,
}

use Attention::{Heads, Latent, Mixed};

/// Source: config.json and model card of each.
#[rustfmt::skip]
pub(super) static MODELS: &[Shape] = &[
    Shape { name: "hf:bartowski/granite-3.1-3b-a800m-instruct-GGUF", architecture: "granitemoe", layers: 32, width: 1536,
        vocabulary: 49_155, is_tied: true, attention: Heads(24, 8, 64), experts: [40, 8, 512], shared: 0, matrices: 3, dense: [0, 0],
        source: "ibm-granite/granite-3.1-3b-a800m-instruct", published: 3.3, bits: BITS },
    Shape { name: "hf:allenai/OLMoE-1B-7B-0125-Instruct-GGUF", architecture: "olmoe", layers: 16, width: 2048,
        vocabulary: 50_304, is_tied: false, attention: Heads(16, 16, 128), experts: [64, 8, 1024], shared: 0, matrices: 3, dense: [0, 0],
        source: "allenai/OLMoE-1B-7B-0125-Instruct", published: 6.9, bits: BITS },
    Shape { name: "hf:ibm-granite/granite-4.0-h-tiny-GGUF", architecture: "granitehybrid", layers: 40, width: 1536,
        vocabulary: 100_352, is_tied: true, attention: Mixed(4 * attention(1536, [1536, 512, 512, 1536]) + 36 * recurrence(1536, 6448, 3072), 4 * 1024, 36 * 3072 * 128),
        experts: [64, 6, 512], shared: 1024, matrices: 3, dense: [0, 0], source: "ibm-granite/granite-4.0-h-tiny", published: 6.9, bits: BITS },
    Shape { name: "hf:LiquidAI/LFM2-8B-A1B-GGUF", architecture: "lfm2moe", layers: 24, width: 2048,
        vocabulary: 65_536, is_tied: true, attention: Mixed(6 * attention(2048, [2048, 512, 512, 2048]) + 18 * recurrence(2048, 6144, 2048), 6 * 1024, 18 * 2 * 2048),
        experts: [32, 4, 1792], shared: 0, matrices: 3, dense: [2, 7168], source: "LiquidAI/LFM2-8B-A1B", published: 8.3, bits: BITS },
    Shape { name: "hf:Qwen/Qwen1.5-MoE-A2.7B-Chat", architecture: "qwen2moe", layers: 24, width: 2048,
        vocabulary: 151_936, is_tied: false, attention: Heads(16, 16, 128), experts: [60, 4, 1408], shared: 5632, matrices: 3, dense: [0, 0],
        source: "Qwen/Qwen1.5-MoE-A2.7B-Chat", published: 14.3, bits: BITS },
    Shape { name: "hf:deepseek-ai/DeepSeek-V2-Lite-Chat", architecture: "deepseek2", layers: 27, width: 2048,
        vocabulary: 102_400, is_tied: false, attention: Latent(16, [512, 64, 128, 128]), experts: [64, 6, 1408], shared: 2816, matrices: 3,
        dense: [1, 10_944], source: "deepseek-ai/DeepSeek-V2-Lite-Chat", published: 15.7, bits: BITS },
    Shape { name: "hf:moonshotai/Moonlight-16B-A3B-Instruct", architecture: "deepseek2", layers: 27, width: 2048,
        vocabulary: 163_840, is_tied: false, attention: Latent(16, [512, 64, 128, 128]), experts: [64, 6, 1408], shared: 2816, matrices: 3,
        dense: [1, 11_264], source: "moonshotai/Moonlight-16B-A3B-Instruct", published: 16.0, bits: BITS },
    Shape { name: "hf:inclusionAI/Ling-mini-2.0", architecture: "bailingmoe2", layers: 20, width: 2048,
        vocabulary: 157_184, is_tied: false, attention: Heads(16, 4, 128), experts: [256, 8, 512], shared: 512, matrices: 3,
        dense: [1, 5120], source: "inclusionAI/Ling-mini-2.0", published: 16.3, bits: BITS },
    Shape { name: "hf:ggml-org/gpt-oss-20b-GGUF", architecture: "gpt-oss", layers: 24, width: 2880,
        vocabulary: 201_088, is_tied: false, attention: Heads(64, 8, 64), experts: [32, 4, 2880], shared: 0, matrices: 3, dense: [0, 0],
        source: "openai/gpt-oss-20b", published: 20.9, bits: MXFP4 },
    Shape { name: "hf:google/gemma-4-26B-A4B-it", architecture: "gemma4", layers: 30, width: 2816,
        vocabulary: 262_144, is_tied: true, attention: Mixed(25 * attention(2816, [4096, 2048, 2048, 4096]) + 5 * attention(2816, [8192, 1024, 0, 8192]), 25 * 4096 + 5 * 2048, 0),
        experts: [128, 8, 704], shared: 2112, matrices: 3, dense: [0, 0], source: "google/gemma-4-26B-A4B-it", published: 25.2, bits: BITS },
    Shape { name: "hf:Qwen/Qwen3-30B-A3B-GGUF", architecture: "qwen3moe", layers: 48, width: 2048,
        vocabulary: 151_936, is_tied: false, attention: Heads(32, 4, 128), experts: [128, 8, 768], shared: 0, matrices: 3, dense: [0, 0],
        source: "Qwen/Qwen3-30B-A3B", published: 30.5, bits: BITS },
    Shape { name: "hf:nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", architecture: "nemotron_h_moe", layers: 52, width: 2688,
        vocabulary: 131_072, is_tied: false, attention: Mixed(6 * attention(2688, [4096, 256, 256, 4096]) + 23 * recurrence(2688, 10_304, 4096), 6 * 512, 23 * 4096 * 128),
        experts: [128, 6, 1856], shared: 3712, matrices: 2, dense: [29, 0], source: "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", published: 31.6, bits: BITS },
    Shape { name: "hf:ibm-granite/granite-4.0-h-small-GGUF", architecture: "granitehybrid", layers: 40, width: 4096,
        vocabulary: 100_352, is_tied: true, attention: Mixed(4 * attention(4096, [4096, 1024, 1024, 4096]) + 36 * recurrence(4096, 16_768, 8192), 4 * 2048, 36 * 8192 * 128),
        experts: [72, 10, 768], shared: 1536, matrices: 3, dense: [0, 0], source: "ibm-granite/granite-4.0-h-small", published: 32.2, bits: BITS },
    Shape { name: "hf:Qwen/Qwen3.6-35B-A3B", architecture: "qwen35moe", layers: 40, width: 2048,
        vocabulary: 248_320, is_tied: false, attention: Mixed(10 * attention(2048, [8192, 512, 512, 4096]) + 30 * recurrence(2048, 12_352, 4096), 10 * 1024, 30 * 4096 * 128),
        experts: [256, 8, 512], shared: 512, matrices: 3, dense: [0, 0], source: "Qwen/Qwen3.6-35B-A3B", published: 34.7, bits: BITS },
    Shape { name: "hf:mistralai/Mixtral-8x7B-Instruct-v0.1", architecture: "llama", layers: 32, width: 4096,
        vocabulary: 32_000, is_tied: false, attention: Heads(32, 8, 128), experts: [8, 2, 14_336], shared: 0, matrices: 3, dense: [0, 0],
        source: "mistralai/Mixtral-8x7B-Instruct-v0.1", published: 46.7, bits: BITS },
    Shape { name: "hf:Qwen/Qwen3-Coder-Next-GGUF", architecture: "qwen3next", layers: 48, width: 2048,
        vocabulary: 151_936, is_tied: false, attention: Mixed(12 * attention(2048, [8192, 512, 512, 4096]) + 36 * recurrence(2048, 12_352, 4096), 12 * 1024, 36 * 4096 * 128),
        experts: [512, 10, 512], shared: 512, matrices: 3, dense: [0, 0], source: "Qwen/Qwen3-Coder-Next", published: 79.7, bits: BITS },
    Shape { name: "hf:zai-org/GLM-4.5-Air", architecture: "glm4moe", layers: 46, width: 4096,
        vocabulary: 151_552, is_tied: false, attention: Heads(96, 8, 128), experts: [128, 8, 1408], shared: 1408, matrices: 3,
        dense: [1, 10_944], source: "zai-org/GLM-4.5-Air", published: 106.0, bits: BITS },
    Shape { name: "hf:ggml-org/gpt-oss-120b-GGUF", architecture: "gpt-oss", layers: 36, width: 2880,
        vocabulary: 201_088, is_tied: false, attention: Heads(64, 8, 64), experts: [128, 4, 2880], shared: 0, matrices: 3, dense: [0, 0],
        source: "openai/gpt-oss-120b", published: 116.8, bits: MXFP4 },
    Shape { name: "hf:Qwen/Qwen3.5-122B-A10B", architecture: "qwen35moe", layers: 48, width: 3072,
        vocabulary: 248_320, is_tied: false, attention: Mixed(12 * attention(3072, [16_384, 512, 512, 8192]) + 36 * recurrence(3072, 20_608, 8192), 12 * 1024, 36 * 8192 * 128),
        experts: [256, 8, 1024], shared: 1024, matrices: 3, dense: [0, 0], source: "Qwen/Qwen3.5-122B-A10B", published: 122.0, bits: BITS },
];

impl Shape {
    /// Parameters of what mixes positions, in all layers.
    fn attention(&self) -> u64 {
        let columns = match self.attention {
            Heads(heads, shared, head) => head * (2 * heads + 2 * shared),
            Latent(heads, [rank, turned, key, value]) => {
                let rows = heads * (key + turned) + rank + turned + heads * value;
                rows + rank * heads * (key + value) / self.width
            }
            Mixed(parameters, ..) => return parameters,
        };
        self.layers * self.width * columns
    }

    /// Parameters that every token passes.
    fn dense(&self) -> u64 {
        let head = self.vocabulary * self.width * if self.is_tied { 1 } else { 2 };
        let [dense, dense_width] = self.dense;
        let sparse = (self.layers - dense) * self.width * (self.matrices * self.shared + self.experts[0]);
        head + self.attention() + dense * 3 * self.width * dense_width + sparse
    }

    /// Parameters of `count` experts in each layer that has some.
    fn of_experts(&self, count: u64) -> u64 {
        (self.layers - self.dense[0]) * count * self.matrices * self.width * self.experts[2]
    }

    pub(super) fn parameters(&self) -> u64 {
        self.dense() + self.of_experts(self.experts[0])
    }

    pub(super) fn active(&self) -> u64 {
        self.dense() + self.of_experts(self.experts[1])
    }

    fn bytes(&self) -> u64 {
        self.dense_bytes() + self.bytes_of_experts()
    }

    /// Bits of what is no expert: in MXFP4 files it stays in 8 and a half.
    fn dense_bits(&self) -> f64 {
        if self.bits < BITS { 8.5 } else { self.bits }
    }

    /// Bytes of all that every token passes, and of the embedding table.
    pub(super) fn dense_bytes(&self) -> u64 {
        (self.dense() as f64 * self.dense_bits() / 8.0) as u64
    }

    /// Bytes of the embedding table where it is not the head, too: a token reads one row of it.
    pub(super) fn table_bytes(&self) -> u64 {
        let table = if self.is_tied { 0 } else { self.vocabulary * self.width };
        (table as f64 * self.dense_bits() / 8.0) as u64
    }

    /// Bytes of all experts.
    pub(super) fn bytes_of_experts(&self) -> u64 {
        (self.of_experts(self.experts[0]) as f64 * self.bits / 8.0) as u64
    }

    /// Experts of all layers that have some, and how many of them a token uses.
    pub(super) fn expert_counts(&self) -> (u64, u64) {
        let layers = self.layers - self.dense[0];
        (layers * self.experts[0], layers * self.experts[1])
    }

    /// The model without its maker and what is the same in most names.
    pub(super) fn short_name(&self) -> String {
        let name = self.source.rsplit('/').next().unwrap_or(self.source);
        let ends = ["-BF16", "-Instruct-v0.1", "-Instruct", "-instruct", "-Chat", "-it"];
        let name = ends.iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
        name.trim_start_matches("NVIDIA-").to_owned()
    }

    /// Bytes of a cache in F16, and of the states of a conversation in F32 with those that are kept from earlier.
    pub(super) fn cache(&self) -> u64 {
        let (row, state) = match self.attention {
            Heads(_, shared, head) => (2 * shared * head * self.layers, 0),
            Latent(_, [rank, turned, ..]) => ((rank + turned) * self.layers, 0),
            Mixed(_, row, state) => (row, state),
        };
        2 * row * POSITIONS + 4 * state * (1 + SNAPSHOTS as u64)
    }

    fn memory(&self) -> u64 {
        self.bytes() + self.cache() + PROGRAM
    }

    /// The command that gets it.
    fn how(&self) -> String {
        match self.name.ends_with("-GGUF") {
            true => format!("moewe chat {}", self.name),
            false => format!("moewe convert {} -o model.gguf --bits 4", self.name),
        }
    }
}

/// Prints the table.
pub(super) fn print(is_json: bool) -> Result<()> {
    if is_json {
        let models = MODELS.iter().map(|model| {
            json!({
                "name": model.name, "architecture": model.architecture, "parameters": model.parameters(),
                "published_billions": model.published, "active": model.active(), "bits_per_weight": model.bits, "bytes": model.bytes(),
                "memory": model.memory(), "source": model.source, "command": model.how(),
            })
        });
        let models: Vec<_> = models.collect();
        return output::json(&json!({ "date": DATE, "is_computed": true, "models": models }));
    }
    let heading = ["ARCHITECTURE", "PARAMETERS", "PER TOKEN", "BITS", "SIZE", "MEMORY", "GET IT"];
    let mut table = Table::new(&heading, &[1, 2, 3, 4, 5]);
    for model in MODELS {
        table.row([
            model.architecture.to_owned(),
            output::count(model.parameters()),
            output::count(model.active()),
            format!("{:.2}", model.bits),
            output::bytes(model.bytes()),
            output::bytes(model.memory()),
            model.how(),
        ]);
    }
    table.print()?;
    output::note(format!(
        "as of {DATE}; size and memory are computed from the published shapes (all experts in memory, {POSITIONS} \
         positions). With less, say --memory 4G: experts are then read when they are needed"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::model::ARCHITECTURES;

    #[test]
    fn shapes_have_the_parameters_that_their_makers_name() {
        for model in MODELS {
            let found = model.parameters() as f64 / 1e9;
            assert!((found / model.published - 1.0).abs() < 0.03, "{}: {found}", model.name);
            assert!(model.active() < model.parameters() / 2 && model.memory() > model.bytes());
        }
    }

    #[test]
    fn all_names_can_be_pulled_and_all_architectures_run() {
        for model in MODELS {
            assert!(
                crate::pull::Remote::parse(model.name).is_some_and(|name| name.is_ok()),
                "{}",
                model.name
            );
            let is_known = ARCHITECTURES.iter().any(|known| known.name == model.architecture);
            assert!(is_known, "{}", model.architecture);
        }
    }
}
