//! tokenizer.model: SentencePiece's `ModelProto` (sentencepiece_model.proto), as much of it as BPE needs.

use super::tokens::{Kind, Token, Tokens};
use moewe_engine::tokenizer::SpacePrefix;
use moewe_engine::{Error, Result};
use serde_json::Value as Json;

const BPE: u64 = 2; // TrainerSpec.ModelType

/// A field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::malformed("protobuf", "a number of at most 64 bits", "a longer one"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).map_err(|_| truncated())?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Number and value of the next field; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(
                self.take(4)?.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)),
            ),
            other => return Err(Error::malformed("protobuf", "a wire type of 0, 1, 2 or 5", other)),
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn truncated() -> Error {
    Error::malformed("protobuf", "a whole message", "its end")
}

/// Reads the whole file.
pub(super) fn read(bytes: &[u8], rows: u64) -> Result<Tokens> {
    let mut tokens = Tokens { model: "llama", ..Tokens::default() };
    let (mut trainer, mut normalizer) = (Trainer::default(), Normalizer::default());
    let mut model = Message(bytes);
    let mut count = 0;
    while let Some((number, field)) = model.next()? {
        match (number, field) {
            (1, Field::Bytes(piece)) => {
                tokens.set(count, read_piece(piece)?, rows)?;
                count += 1;
            }
            (2, Field::Bytes(message)) => trainer.read(Message(message))?,
            (3, Field::Bytes(message)) => normalizer.read(Message(message))?,
            _ => {}
        }
    }
    if trainer.model_type != BPE {
        let what = "a SentencePiece model that is not BPE (unigram, word or character)";
        return Err(Error::unsupported(what, "GGUF's `llama` tokenizer merges by scores"));
    }
    for (does, what) in [
        (trainer.space_is_suffix, "a SentencePiece model with treat_whitespace_as_suffix"),
        (!normalizer.escapes_spaces, "a SentencePiece model without escape_whitespaces"),
    ] {
        if does {
            return Err(Error::unsupported(what, "the runtime writes spaces as `▁` before words"));
        }
    }
    normalizer.set(&mut tokens);
    let known = |&(_, id): &(&str, i64)| (0..count as i64).contains(&id);
    tokens.ids = trainer.ids.into_iter().filter(known).map(|(role, id)| (role, id as u32)).collect();
    // Pieces that a person defined are found in the text once it is normalized, with no further space before what follows.
    let defined =
        |(_, token): &(u32, &Option<Token>)| token.as_ref().is_some_and(|t| t.kind == Kind::UserDefined);
    tokens.matching.normalized = (0..).zip(&tokens.tokens).filter(defined).map(|(id, _)| id).collect();
    Ok(tokens)
}

/// Where the space goes, as the configuration of a slow tokenizer tells it: since `legacy` was given up, before the
/// beginning of a text only.
pub(super) fn settle_prefix(config: &Json, tokens: &mut Tokens) {
    if config["add_prefix_space"] == false {
        tokens.add_space_prefix = Some(false);
    }
    if config["legacy"] == false && tokens.add_space_prefix == Some(true) {
        tokens.space_prefix = Some(SpacePrefix::First);
    }
}

/// What of `TrainerSpec` counts.
struct Trainer {
    model_type: u64,
    space_is_suffix: bool,
    ids: [(&'static str, i64); 4],
}

impl Default for Trainer {
    fn default() -> Self {
        let ids = [("unknown", 0), ("bos", 1), ("eos", 2), ("padding", -1)];
        Self { model_type: 1, space_is_suffix: false, ids }
    }
}

impl Trainer {
    fn read(&mut self, mut message: Message) -> Result<()> {
        while let Some((number, field)) = message.next()? {
            match (number, field) {
                (3, Field::Number(value)) => self.model_type = value,
                (24, Field::Number(value)) => self.space_is_suffix = value != 0,
                (number @ 40..=43, Field::Number(value)) => {
                    self.ids[number as usize - 40].1 = i64::from(value as i32);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What of `NormalizerSpec` counts.
struct Normalizer {
    charsmap: Vec<u8>,
    adds_prefix: bool,
    squeezes_spaces: bool,
    escapes_spaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { charsmap: vec![], adds_prefix: true, squeezes_spaces: true, escapes_spaces: true }
    }
}

impl Normalizer {
    fn read(&mut self, mut message: Message) -> Result<()> {
        while let Some((number, field)) = message.next()? {
            match (number, field) {
                (2, Field::Bytes(rules)) => self.charsmap = rules.to_vec(),
                (3, Field::Number(value)) => self.adds_prefix = value != 0,
                (4, Field::Number(value)) => self.squeezes_spaces = value != 0,
                (5, Field::Number(value)) => self.escapes_spaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn set(self, tokens: &mut Tokens) {
        let steps = [(!self.charsmap.is_empty(), "charsmap"), (self.squeezes_spaces, "squeeze_spaces")];
        tokens.normalizer =
            steps.into_iter().filter(|(is_done, _)| *is_done).map(|(_, step)| step.to_owned()).collect();
        tokens.charsmap = self.charsmap;
        tokens.add_space_prefix = Some(self.adds_prefix);
    }
}

fn read_piece(piece: &[u8]) -> Result<Token> {
    let mut message = Message(piece);
    let mut token = Token { text: String::new(), score: 0.0, kind: Kind::Normal };
    while let Some((number, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => {
                let text = str::from_utf8(text).map_err(|error| Error::malformed("piece", "UTF-8", error))?;
                text.clone_into(&mut token.text);
            }
            (2, Field::Fixed32(bits)) => token.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => token.kind = kind_of(kind)?,
            _ => {}
        }
    }
    Ok(token)
}

fn kind_of(value: u64) -> Result<Kind> {
    Ok(match value {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        other => return Err(Error::malformed("piece", "a type from 1 to 6", other)),
    })
}
