//! Splits text into the words inside which BPE may merge: the rules behind GGUF's `tokenizer.ggml.pre` names.
//!
//! The names are llama.cpp's (`src/llama-vocab.cpp`), the expressions those of the models' own `tokenizer.json`.
//! They run on `regex`, whose time is linear in the text, instead of `fancy-regex`, which backtracks and gives up on
//! long input. The one look-ahead that all of them use, `\s+(?!\S)` (a run of white space leaves its last character to
//! the following word), is therefore not part of the expressions but applied to their matches.

use crate::{Error, Result};
use regex::Regex;

/// How words become the symbols that merging starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// One symbol per byte, in GPT-2's spelling (space is `Ġ`).
    Bytes,
    /// One symbol per character, spaces as `▁`; characters without a token fall back to byte tokens.
    Characters,
}

/// The splitting rules of one family of models.
#[derive(Debug)]
pub struct PreTokenizer {
    /// Names under which GGUF files ask for these rules, the one that a converter writes first.
    pub names: &'static [&'static str],
    /// Regular expressions, each applied to the pieces that the one before left.
    pub patterns: &'static [&'static str],
    /// A word that is a token is taken whole, whatever the merges say.
    pub whole_words: bool,
    /// BOS is expected where the file does not say.
    pub add_bos: bool,
    /// What merging starts from.
    pub alphabet: Alphabet,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const BAILINGMOE: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+";
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+";
const MINICPM5: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const DEEPSEEK_CJK: &str = "[\u{4E00}-\u{9FA5}\u{0800}-\u{4E00}\u{AC00}-\u{D7FF}]+";
const DEEPSEEK3_CJK: &str = "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##;
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+";
const DEEPSEEK_MARKS: &str =
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+";
const POINTS: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+";

/// All rules known here.
#[rustfmt::skip]
pub const PRE_TOKENIZERS: &[PreTokenizer] = &[
    bytes(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    bytes(&["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum",
            "modern-bert", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"], &[GPT2]),
    bytes(&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
          &[r"\p{N}", GPT2]),
    bytes(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    PreTokenizer { whole_words: true, add_bos: true,
        ..bytes(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
                  "jina-v5-nano"], &[LLAMA3]) },
    bytes(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    PreTokenizer { whole_words: true, ..bytes(&["glm4", "glm5"], &[LLAMA3]) },
    PreTokenizer { whole_words: true, ..bytes(&["minicpm5"], &[r"\p{N}{1,3}", MINICPM5]) },
    bytes(&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open"],
          &[QWEN2]),
    bytes(&["qwen35"], &[QWEN35]),
    bytes(&["laguna"], &[r"[^\n]+|[\n]+", QWEN2]),
    bytes(&["deepseek-llm"], &[r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", DEEPSEEK_CJK, r"\p{N}+"]),
    bytes(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
    bytes(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[r"\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3]),
    bytes(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    PreTokenizer { whole_words: true, add_bos: true, ..bytes(&["tekken"], &[TEKKEN]) },
    bytes(&["kimi-k2"], &[KIMI_K2]),
    bytes(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILINGMOE]),
    bytes(&["seed-coder"], &[SEED_CODER]),
    bytes(&["poro-chat", "bloom", "gpt3-finnish"], &[POINTS]),
    bytes(&["viking"], &[POINTS, r"\p{N}"]),
    PreTokenizer { add_bos: true, alphabet: Alphabet::Characters, ..bytes(&["gemma4"], &[r"[^\n]+|[\n]+"]) },
    PreTokenizer { alphabet: Alphabet::Characters, ..bytes(&["sarvam-moe"], &[r"[^\n]+|[\n]+"]) },
];

const fn bytes(names: &'static [&'static str], patterns: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, patterns, whole_words: false, add_bos: false, alphabet: Alphabet::Bytes }
}

impl PreTokenizer {
    /// The rules that a file asks for; no name means `default`.
    ///
    /// # Errors
    /// When no rules have that name; the message lists those there are.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        if name.is_empty() {
            tracing::warn!(
                "the file does not say how its tokenizer splits text (tokenizer.ggml.pre); words may be wrong"
            );
        }
        let wanted = if name.is_empty() { "default" } else { name };
        PRE_TOKENIZERS.iter().find(|rules| rules.names.contains(&wanted)).ok_or_else(|| {
            let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|rules| rules.names[0]).collect();
            let hint = format!("known are {} and their relatives", known.join(", "));
            Error::unsupported(format!("tokenizer.ggml.pre is {wanted:?}, which is not known here"), hint)
        })
    }
}

/// Compiled rules.
pub struct Splitter {
    stages: Vec<Stage>,
}

struct Stage {
    pattern: Regex,
    lends_space: bool,    // ends in `\s+`, which stands for `\s+(?!\S)|\s+`
    takes_newlines: bool, // runs with a line break belong to `\s*[\r\n]+` and keep their last character
}

impl Stage {
    fn new(pattern: &str) -> Result<Self> {
        let compiled =
            Regex::new(pattern).map_err(|error| Error::unsupported(error.to_string(), "see the table"))?;
        let takes_newlines = pattern.contains(r"|\s*[\r\n]");
        Ok(Self { pattern: compiled, lends_space: pattern.ends_with(r"|\s+"), takes_newlines })
    }

    /// Where the match `start..end` really ends.
    fn end(&self, text: &str, start: usize, end: usize) -> usize {
        let Some(last) = text[start..end].chars().next_back() else { return end };
        let keeps = !self.lends_space || !last.is_whitespace() || end == text.len();
        let shorter = end - last.len_utf8();
        if keeps || shorter == start || (self.takes_newlines && matches!(last, '\r' | '\n')) {
            end
        } else {
            shorter
        }
    }

    /// Calls `each` with the matches and with what stands between them.
    fn split<'a>(&self, text: &'a str, each: &mut impl FnMut(&'a str)) {
        let mut done = 0;
        while done < text.len() {
            let Some(found) = self.pattern.find_at(text, done).filter(|found| !found.is_empty()) else {
                break;
            };
            if done < found.start() {
                each(&text[done..found.start()]);
            }
            let end = self.end(text, found.start(), found.end());
            each(&text[found.start()..end]);
            done = end;
        }
        if done < text.len() {
            each(&text[done..]);
        }
    }
}

impl Splitter {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// When a pattern cannot be compiled.
    pub fn new(rules: &PreTokenizer) -> Result<Self> {
        Ok(Self { stages: rules.patterns.iter().map(|pattern| Stage::new(pattern)).collect::<Result<_>>()? })
    }

    /// The words of `text`, which together are `text`.
    pub fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut words = vec![text];
        for stage in &self.stages {
            let mut finer = Vec::with_capacity(words.len());
            words.into_iter().for_each(|word| stage.split(word, &mut |piece| finer.push(piece)));
            words = finer;
        }
        words
    }
}
