//! Text to tokens and back, from the vocabulary that a GGUF file carries.
//!
//! Two models: byte-level BPE (`gpt2`, and `gemma4` over characters) and SentencePiece's BPE (`llama`). Merging is our
//! own because the tokenizer of a 128,256-token vocabulary must stand within 150 ms and HF `tokenizers` alone needs
//! 210 ms for its merge table; in the tests HF is the independent twin. Every list is a stranger's: lengths, types and
//! ids are checked once, here, and encoding is n log n in the text whatever they say. Chat templates are in
//! `chat_template.rs`; choosing tokens is the sampler's.

mod bpe;
mod byte_tokens;
pub mod bytes;
mod charsmap;
mod chat_template;
mod ends;
mod merge;
mod normalizer;
pub mod pretokenizer;
mod ranks;
mod spec;
mod special;
mod spm;
mod stand_ins;
mod stream;
#[cfg(test)]
mod tests;
mod vocabulary;

use crate::gguf::Metadata;
use crate::{Error, Result};
use bpe::Bpe;
use byte_tokens::ByteTokens;
use normalizer::{IsFirst, Spelling};
use pretokenizer::PreTokenizer;
use special::{Fragment, SpecialTokens};
use spm::Spm;
use stand_ins::StandIns;
use std::borrow::Cow;
use vocabulary::{Texts, Vocabulary};

pub use chat_template::{BUILT_IN, ChatTemplate, Message, Rendered, built_in, date};
pub(crate) use ends::of_metadata as ends_of_metadata;
pub use normalizer::{Normalizer, STEPS as NORMALIZER_STEPS, SpacePrefix};
pub use spec::{Matching, SpecialIds, VocabularySpec};
pub use special::Special;
pub use stream::StreamDecoder;
pub use vocabulary::TokenType;

/// SentencePiece's visible space.
const SPACE: &str = "▁";

/// A vocabulary that can be used.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    pieces: Texts, // the bytes that each token adds to an answer
    special: SpecialTokens,
    spelling: Spelling,
    prefix: SpacePrefix,
    model: Model,
    ids: SpecialIds,
    ends: Vec<u32>, // ascending
    add_bos: bool,
    add_eos: bool,
    strips_space: bool, // of a decoded text: SentencePiece's habit of putting one first, undone
}

/// Where a part of a prompt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The template wrote it: control tokens count.
    Template,
    /// It stood in a message: no control token, whatever it spells.
    Content,
}

enum Model {
    Bpe(Bpe),
    Spm(Spm),
}

impl Tokenizer {
    /// The tokenizer of a GGUF file; `None` for a file without one, which works with token ids only.
    ///
    /// # Errors
    /// As [`VocabularySpec::from_metadata`] and [`Tokenizer::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        VocabularySpec::from_metadata(metadata)?.map(|spec| Self::new(&spec)).transpose()
    }

    /// Builds the tokenizer that `spec` describes, checking all of it.
    ///
    /// # Errors
    /// A kind of tokenizer or rules that are not known, or parts that do not fit each other; names the key.
    pub fn new(spec: &VocabularySpec) -> Result<Self> {
        let mut vocabulary = Vocabulary::new(spec)?;
        let ids = check_ids(spec, &vocabulary)?;
        let spec = &VocabularySpec { ids, ..spec.clone() };
        let rules = match spec.model {
            "gpt2" => Some(PreTokenizer::by_name(spec.pre)?),
            "gemma4" => Some(PreTokenizer::by_name("gemma4")?),
            "llama" => None,
            other => return Err(unknown_model(other)),
        };
        let model = match rules {
            Some(rules) => Model::Bpe(Bpe::new(spec, rules, &vocabulary)?),
            None => Model::Spm(Spm::new(spec, &vocabulary)?),
        };
        check_lists(spec, &vocabulary)?;
        let ends = ends::find(&mut vocabulary, &ids, &spec.ends);
        let escapes_spaces = match &model {
            Model::Spm(_) => true,
            Model::Bpe(bpe) => bpe.escapes_spaces(),
        };
        let spelling =
            Spelling { normalizer: Normalizer::new(&spec.normalizer, &spec.charsmap)?, escapes_spaces };
        let strips_space = rules.is_none() && spec.add_space_prefix.unwrap_or(true);
        let usual = if strips_space { SpacePrefix::Every } else { SpacePrefix::Never };
        Ok(Self {
            pieces: pieces(&vocabulary, &model)?,
            special: SpecialTokens::new(&vocabulary, &spec.matching, &spelling)?,
            spelling,
            prefix: spec.space_prefix.unwrap_or(usual),
            add_bos: ids.bos.is_some() && spec.add_bos.unwrap_or(rules.is_none_or(|rules| rules.add_bos)),
            add_eos: ids.eos.is_some() && spec.add_eos.unwrap_or(false),
            strips_space,
            vocabulary,
            model,
            ids,
            ends,
        })
    }

    /// The tokens of `text`, without BOS.
    ///
    /// # Errors
    /// When the text is too long, or has a character for which the vocabulary has no token.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        check_length(text)?;
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let mut is_first = IsFirst::Yes;
        self.special.split(text, special, |fragment| {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => self.encode_stretch(text, special, is_first, &mut tokens)?,
            }
            is_first = IsFirst::No;
            Ok(())
        })?;
        Ok(tokens)
    }

    /// The tokens of `text` after BOS, if the model expects one and the text does not bring its own.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut tokens = self.encode(text, special)?;
        match self.ids.bos {
            Some(bos) if self.add_bos && tokens.first() != Some(&bos) => tokens.insert(0, bos),
            _ => {}
        }
        Ok(tokens)
    }

    /// The tokens of a prompt in parts, without BOS: control tokens where the template wrote them, text elsewhere. Parts
    /// are cut nowhere else, so the same text from one or several of them makes the same tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_parts<'p>(&self, parts: impl IntoIterator<Item = (&'p str, Origin)>) -> Result<Vec<u32>> {
        let parts: Vec<_> = parts.into_iter().collect();
        let stand_ins = StandIns::new(self.special.guards(), parts.iter().map(|(text, _)| *text))?;
        let mut masked = String::with_capacity(parts.iter().map(|(text, _)| text.len()).sum());
        for (text, origin) in parts {
            match origin {
                Origin::Template => masked.push_str(text),
                Origin::Content => stand_ins.put(text, &mut masked),
            }
        }
        if !stand_ins.are_in(&masked) {
            return self.encode(&masked, Special::Parse);
        }
        check_length(&masked)?;
        let (mut tokens, mut is_first) = (Vec::with_capacity(masked.len() / 3), IsFirst::Yes);
        self.special.split(&masked, Special::Parse, |fragment| {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) if !stand_ins.are_in(text) => {
                    self.encode_stretch(text, Special::Parse, is_first, &mut tokens)?;
                }
                Fragment::Text(text) => self.encode_content(text, &stand_ins, is_first, &mut tokens)?,
            }
            is_first = IsFirst::No;
            Ok(())
        })?;
        Ok(tokens)
    }

    /// A stretch of text with stand-ins in it, which are undone before anything but control tokens is looked for.
    fn encode_content(
        &self,
        masked: &str,
        stand_ins: &StandIns,
        mut is_first: IsFirst,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        // Where control tokens are looked for after the normalizer, the stand-ins have to pass it.
        if self.special.looks_twice() {
            return self.encode_spelled(masked, is_first, |text, mut is_first| {
                self.special.split_normalized(text, Special::Parse, |fragment| {
                    match fragment {
                        Fragment::Token(id) => tokens.push(id),
                        Fragment::Text(text) => {
                            let text = stand_ins.undo(text).text;
                            self.encode_normalized(&text, Special::Plain, is_first, tokens)?;
                        }
                    }
                    is_first = IsFirst::No;
                    Ok(())
                })
            });
        }
        let text = stand_ins.undo(masked).text;
        self.special.split(&text, Special::Plain, |fragment| {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => self.encode_stretch(text, Special::Plain, is_first, tokens)?,
            }
            is_first = IsFirst::No;
            Ok(())
        })
    }

    /// Characters without which no control token can be written: what tells content from a template's own text.
    pub fn guards(&self) -> &[char] {
        self.special.guards()
    }

    /// A stretch of text between special tokens: normalized, and parted once more where tokens are looked for then.
    fn encode_stretch(
        &self,
        text: &str,
        special: Special,
        is_first: IsFirst,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        self.encode_spelled(text, is_first, |text, is_first| {
            self.encode_normalized(text, special, is_first, tokens)
        })
    }

    /// Calls `each` with the normalized text, if there is any, and the space that goes before it.
    fn encode_spelled(
        &self,
        text: &str,
        is_first: IsFirst,
        each: impl FnOnce(&str, IsFirst) -> Result<()>,
    ) -> Result<()> {
        let mut text = self.spelling.of(text)?;
        if text.is_empty() {
            return Ok(());
        }
        if self.prefix.goes_before_stretch(is_first) {
            text = Cow::Owned(self.spelling.space().to_owned() + &text);
        }
        each(&text, is_first)
    }

    fn encode_normalized(
        &self,
        text: &str,
        special: Special,
        mut is_first: IsFirst,
        tokens: &mut Vec<u32>,
    ) -> Result<()> {
        self.special.split_normalized(text, special, |fragment| {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => self.encode_text(text, is_first, tokens)?,
            }
            is_first = IsFirst::No;
            Ok(())
        })
    }

    fn encode_text(&self, text: &str, is_first: IsFirst, tokens: &mut Vec<u32>) -> Result<()> {
        let space = self.spelling.space();
        let text = match self.prefix.goes_before_missing(is_first) && !text.starts_with(space) {
            true => Cow::Owned(space.to_owned() + text),
            false => Cow::Borrowed(text),
        };
        match &self.model {
            Model::Spm(spm) => spm.encode(&self.vocabulary, &text, tokens),
            Model::Bpe(bpe) => bpe.encode(&self.vocabulary, &text, tokens),
        }
    }

    /// The text of `tokens`: control tokens left out, broken UTF-8 replaced, the space that `encode` put first removed.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let shown = tokens.iter().filter(|&&token| !self.is_control(token));
        let bytes: Vec<u8> = shown.flat_map(|&token| self.piece_bytes(token)).copied().collect();
        let bytes = bytes.strip_prefix(b" ").filter(|_| self.strips_space).unwrap_or(&bytes);
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The bytes of one token, often not UTF-8 on their own; none for an id outside the vocabulary.
    pub fn piece_bytes(&self, token: u32) -> &[u8] {
        if (token as usize) < self.pieces.len() { self.pieces.get(token as usize) } else { &[] }
    }

    /// The token as it stands in the file (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn token_text(&self, token: u32) -> &str {
        self.vocabulary.text(token)
    }

    /// The token whose text in the file is `text`.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.vocabulary.id_of(text.as_bytes())
    }

    /// Number of tokens.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// What `token` is for; `None` outside the vocabulary.
    pub fn token_type(&self, token: u32) -> Option<TokenType> {
        self.vocabulary.kind(token)
    }

    /// Whether `token` steers the model and is not shown.
    pub fn is_control(&self, token: u32) -> bool {
        matches!(self.token_type(token), Some(TokenType::Control | TokenType::Unknown))
    }

    /// Whether `token` ends an answer.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// All tokens that end an answer, ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The tokens with a role.
    pub fn ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Begin of text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// Whether a text begins with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a training text ends with EOS; a prompt never does.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.vocabulary_size()).field("ids", &self.ids).finish()
    }
}

fn check_length(text: &str) -> Result<()> {
    if text.len() > i32::MAX as usize / 4 {
        let bytes = text.len();
        return Err(Error::request(format!("a text of {bytes} bytes; at most 512 MiB can be encoded")));
    }
    Ok(())
}

fn unknown_model(name: &str) -> Error {
    let hint = "known are gpt2 (byte-level BPE), llama (SentencePiece BPE) and gemma4";
    Error::unsupported(format!("tokenizer.ggml.model is {name:?}, which is not known here"), hint)
}

/// The roles of `spec` where they are tokens, with SentencePiece's habits where a `llama` file is silent.
fn check_ids(spec: &VocabularySpec, vocabulary: &Vocabulary) -> Result<SpecialIds> {
    let check = |name: &str, id: Option<u32>| match id {
        // Converters write -1 for "none".
        None | Some(u32::MAX) => Ok(None),
        Some(id) if (id as usize) < vocabulary.len() => Ok(Some(id)),
        Some(id) => {
            let expected = format!("a token below {}", vocabulary.len());
            Err(Error::malformed(format!("tokenizer.ggml.{name}_token_id"), expected, id))
        }
    };
    let is_llama = spec.model == "llama";
    let bos = check("bos", spec.ids.bos)?.or_else(|| vocabulary.id_of(b"<s>").filter(|_| is_llama));
    let eos = check("eos", spec.ids.eos)?.or_else(|| vocabulary.id_of(b"</s>").filter(|_| is_llama));
    let unknown = check("unknown", spec.ids.unknown)?;
    let unknown = unknown.or_else(|| vocabulary.of_kind(TokenType::Unknown).next().map(|(id, _)| id));
    let (eot, eom) = (check("eot", spec.ids.eot)?, check("eom", spec.ids.eom)?);
    // Nothing here uses padding; many files name a row that does not exist.
    let padding = spec.ids.padding.filter(|&id| (id as usize) < vocabulary.len());
    Ok(SpecialIds { bos, eos, eot, eom, unknown, padding })
}

/// The lists of ids in `spec` where they are tokens.
fn check_lists(spec: &VocabularySpec, vocabulary: &Vocabulary) -> Result<()> {
    let matching = &spec.matching;
    let lists = [
        ("moewe.tokenizer.lstrip", &matching.lstrip),
        ("moewe.tokenizer.rstrip", &matching.rstrip),
        ("moewe.tokenizer.single_word", &matching.single_word),
        ("moewe.tokenizer.normalized", &matching.normalized),
        ("tokenizer.ggml.eog_token_ids", &spec.ends),
    ];
    for (key, ids) in lists {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary.len()) {
            let expected = format!("tokens below {}", vocabulary.len());
            return Err(Error::malformed(format!("key `{key}`"), expected, id));
        }
    }
    Ok(())
}

/// The bytes of every token.
fn pieces(vocabulary: &Vocabulary, model: &Model) -> Result<Texts> {
    let spelled = matches!(model, Model::Bpe(bpe) if !bpe.escapes_spaces());
    let mut pieces = Texts::with_capacity(vocabulary.len(), vocabulary.len() * 6);
    for id in 0..vocabulary.len() as u32 {
        let text = vocabulary.text(id);
        match vocabulary.kind(id) {
            Some(TokenType::Byte) => pieces.push([byte_of(id, text)?]),
            Some(TokenType::Normal | TokenType::Unused) if spelled => pieces.push(bytes::spelled_out(text)),
            Some(TokenType::Normal | TokenType::Unused) => pieces.push(text.replace(SPACE, " ").into_bytes()),
            _ => pieces.push(text.bytes()),
        }
    }
    Ok(pieces)
}

fn byte_of(id: u32, text: &str) -> Result<u8> {
    bytes::byte_named(text).ok_or_else(|| {
        let place = format!("tokenizer.ggml.tokens[{id}]");
        Error::malformed(place, "a byte token written <0x00> to <0xFF>", format!("{text:?}"))
    })
}
