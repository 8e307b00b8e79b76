//! Dense models to merge: those of the references, changed as a test wants, and what came of a merge.
//!
//! A changed model is written in F32, so that nothing is rounded on the way.

#![allow(dead_code, reason = "each test uses what it needs")]

pub(crate) use crate::exact::{Tensors, difference, of_file, relative, tensors};

use crate::exact;
use moewe_convert::merge::{Asked, Merged, Mixture, Places, merge};
use moewe_convert::{Options, Pad, Recipe};
use moewe_engine::gguf::{Gguf, TensorInfo, Writer};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/merge")
}

/// Names of models are paths beside a folder; what is not there is looked for among the references' dense models.
pub(crate) struct Beside(pub(crate) PathBuf);

impl Places for Beside {
    fn model(&self, name: &str) -> moewe_engine::Result<PathBuf> {
        let own = self.0.join(name);
        Ok(if own.exists() { own } else { golden().join("dense").join(name) })
    }

    fn text(&self, path: PathBuf) -> PathBuf {
        self.0.join(path)
    }
}

pub(crate) fn parsed(words: &str, folder: &Path) -> moewe_engine::Result<Mixture> {
    Mixture::from_yaml(words, &Beside(folder.to_owned()))
}

pub(crate) fn f32_options() -> Options {
    Options { pad: Pad::Never, ..Options::with(Recipe::by_name("F32").unwrap()) }
}

/// What the words ask for, written to `out` in `folder`.
pub(crate) fn merged_as(
    words: &str,
    folder: &Path,
    out: &str,
    asked: &Asked,
) -> moewe_engine::Result<Merged> {
    merge(&parsed(words, folder)?, &folder.join(out), asked, &f32_options(), &())
}

/// A dense model of the references, to be changed.
#[derive(Clone)]
pub(crate) struct Dense {
    from: PathBuf,
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: Tensors,
}

impl Dense {
    pub(crate) fn of(name: &str) -> Self {
        let from = golden().join("dense").join(name);
        let config = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
        let tensors = tensors(&from.join("model.safetensors"));
        Self { from, config, tensors }
    }

    /// With another value in its configuration.
    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }

    /// Numbers of any tensor that its own do not decide, the same every time.
    pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 5045.0 - 0.1).collect()
    }

    /// With another tensor beside, in every layer.
    pub(crate) fn in_layers(mut self, part: &str, shape: &[usize]) -> Self {
        let layers = self.config["num_hidden_layers"].as_u64().unwrap() as usize;
        for layer in 0..layers {
            let values = Self::numbers(shape.iter().product(), layer * 31 + part.len());
            self.tensors.insert(format!("model.layers.{layer}.{part}"), (shape.to_vec(), values));
        }
        self
    }

    /// Only the first units of each feed-forward network.
    pub(crate) fn shorter(mut self, hidden: usize) -> Self {
        for (name, (shape, values)) in &mut self.tensors {
            if name.contains("gate_proj") || name.contains("up_proj") {
                values.truncate(hidden * shape[1]);
                shape[0] = hidden;
            } else if name.contains("down_proj") {
                *values = values.chunks(shape[1]).flat_map(|row| row[..hidden].to_vec()).collect();
                shape[1] = hidden;
            }
        }
        self.key("intermediate_size", hidden)
    }

    /// Writes it below `folder`, with the tokenizer that it had.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, (*shape).clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
        let config = serde_json::to_string(&self.config).unwrap();
        std::fs::write(folder.join("config.json"), config).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(self.from.join(file), folder.join(file)).unwrap();
        }
        folder
    }
}

/// A GGUF file with another number under a key.
pub(crate) fn with_key(source: &Path, target: &Path, key: &str, value: u32) {
    let gguf = Gguf::open(source).unwrap();
    let mut metadata = gguf.metadata().clone();
    metadata.set(key, value);
    let entry = |tensor: &TensorInfo| (tensor.name.clone(), tensor.format, tensor.shape.clone());
    let directory = gguf.tensors().iter().map(entry).collect();
    let mut writer = Writer::new(metadata, directory).unwrap().create(target).unwrap();
    gguf.tensors().iter().for_each(|tensor| writer.write_tensor(&gguf.bytes(tensor)).unwrap());
    writer.finish().unwrap();
}

/// Logits of all tokens, one row after the other.
pub(crate) fn logits(gguf: Gguf, tokens: &[u32]) -> Vec<f32> {
    exact::logits(gguf, tokens, exact::exact(tokens.len().max(64)))
}

/// Logits of a model at a path: a GGUF file, or a folder that is converted first.
pub(crate) fn logits_of(path: &Path, tokens: &[u32]) -> Vec<f32> {
    if path.extension().is_some_and(|ending| ending == "gguf") {
        return logits(Gguf::open(path).unwrap(), tokens);
    }
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("converted.gguf");
    moewe_convert::convert(path, &file, &f32_options(), &()).unwrap();
    logits(Gguf::open(&file).unwrap(), tokens)
}

/// Lengths of a model that is written row by row.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
}

impl Sizes {
    fn tensors(self) -> Vec<(String, [usize; 2])> {
        let Self { vocabulary, width, hidden, layers } = self;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), [vocabulary, width])];
        for layer in 0..layers {
            let own = [
                ("self_attn.q_proj", [width, width]),
                ("self_attn.k_proj", [64, width]),
                ("self_attn.v_proj", [64, width]),
                ("self_attn.o_proj", [width, width]),
                ("mlp.gate_proj", [hidden, width]),
                ("mlp.up_proj", [hidden, width]),
                ("mlp.down_proj", [width, hidden]),
                ("input_layernorm", [0, width]),
                ("post_attention_layernorm", [0, width]),
            ];
            all.extend(own.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        all.push(("model.norm.weight".to_owned(), [0, width]));
        all
    }

    /// Writes a Llama of this size with a tied head, in F32, with the references' tokenizer. Yields the bytes of its
    /// weights.
    pub(crate) fn write(self, folder: &Path) -> u64 {
        use std::io::Write;
        std::fs::create_dir(folder).unwrap();
        let (mut header, mut end) = (Map::new(), 0);
        for (name, [rows, columns]) in self.tensors() {
            let (start, shape) = (end, if rows == 0 { vec![columns] } else { vec![rows, columns] });
            end += 4 * columns * rows.max(1);
            let about = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
            header.insert(name, about);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(&header).unwrap();
        // The same numbers over and over: what they are does not matter.
        let numbers = Dense::numbers(1 << 16, 1).into_iter();
        let block: Vec<u8> = numbers.flat_map(f32::to_le_bytes).collect();
        let mut left = end;
        while left > 0 {
            let some = left.min(block.len());
            file.write_all(&block[..some]).unwrap();
            left -= some;
        }
        let mut config = Dense::of("llama-base").config;
        for (key, value) in [
            ("vocab_size", self.vocabulary),
            ("hidden_size", self.width),
            ("intermediate_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.width / 64),
            ("num_key_value_heads", 1),
            ("head_dim", 64),
        ] {
            config.insert(key.to_owned(), value.into());
        }
        config.insert("tie_word_embeddings".to_owned(), true.into());
        std::fs::write(folder.join("config.json"), Value::Object(config).to_string()).unwrap();
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            std::fs::copy(golden().join("tokenizer").join(name), folder.join(name)).unwrap();
        }
        end as u64
    }
}
