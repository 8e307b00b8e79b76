//! What gates are made of and checked on: prompts and texts as tokens of the base, with whose they are.

use super::Wishes;
use crate::merge::member::Member;
use crate::merge::mixture::{Expert, GateMode, Mixture};
use moewe_engine::tokenizer::{Special, Tokenizer};
use moewe_engine::{Error, Result};
use std::ops::Range;
use std::path::Path;

/// Tokens of a piece of text, the start token counted.
const PIECE: usize = 128;

/// What a sequence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A prompt for an expert.
    Positive,
    /// A prompt against it.
    Negative,
    /// Text that gates are fitted to.
    Fitted,
    /// Text or prompts on which loads are checked.
    HeldOut,
}

/// A sequence of tokens.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) tokens: Vec<u32>,
    /// Whose it is; the shared expert comes after all others.
    pub(super) owner: usize,
    pub(super) purpose: Purpose,
    /// Its rows among those of all passages.
    pub(super) rows: Range<usize>,
    /// Whether the first of its rows is the start token's, which every router sees alike.
    pub(super) has_start: bool,
}

impl Passage {
    /// Its rows without the start token's.
    pub(super) fn content(&self) -> Range<usize> {
        self.rows.start + usize::from(self.has_start && self.rows.len() > 1)..self.rows.end
    }
}

/// All passages, in the order of their rows.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) passages: Vec<Passage>,
}

impl Material {
    /// What a mixture gives to compute with; nothing where it names neither prompts nor texts.
    pub(super) fn of(mixture: &Mixture, base: &Member, wishes: &Wishes) -> Result<Self> {
        let mut material = Self { passages: vec![] };
        let has_texts = mixture.experts.iter().all(|expert| !expert.texts.is_empty());
        let wants_prompts = mixture.gate_mode.wants_prompts() || !has_texts;
        let any = has_texts || mixture.named().any(|(_, expert)| !expert.positive.is_empty());
        if !any {
            return Ok(material);
        }
        let tokenizer = base.tokenizer()?;
        if wants_prompts {
            for (owner, expert) in mixture.experts.iter().chain(&mixture.shared).enumerate() {
                material.add_prompts(&tokenizer, owner, &expert.positive, Purpose::Positive)?;
                material.add_prompts(&tokenizer, owner, &expert.negative, Purpose::Negative)?;
            }
        }
        if has_texts {
            material.add_texts(mixture, &tokenizer, wishes.tokens)?;
        }
        Ok(material)
    }

    pub(super) fn sequences(&self) -> Vec<Vec<u32>> {
        self.passages.iter().map(|passage| passage.tokens.clone()).collect()
    }

    /// Passages of an expert.
    pub(super) fn of_owner(&self, owner: usize, purpose: Purpose) -> impl Iterator<Item = &Passage> {
        self.passages.iter().filter(move |passage| passage.owner == owner && passage.purpose == purpose)
    }

    /// Whose router inputs the loads are checked on: texts where there are any, else prompts for routed experts.
    pub(super) fn checked(&self, experts: usize) -> Vec<&Passage> {
        let texts: Vec<&Passage> = self.with(Purpose::HeldOut);
        let found = if texts.is_empty() { self.with(Purpose::Positive) } else { texts };
        found.into_iter().filter(|passage| passage.owner < experts).collect()
    }

    fn with(&self, purpose: Purpose) -> Vec<&Passage> {
        self.passages.iter().filter(|passage| passage.purpose == purpose).collect()
    }

    fn add_prompts(
        &mut self,
        tokenizer: &Tokenizer,
        owner: usize,
        prompts: &[String],
        purpose: Purpose,
    ) -> Result<()> {
        for prompt in prompts {
            let tokens = tokens_of(tokenizer, prompt)?;
            if tokens.is_empty() {
                return Err(Error::request(format!(
                    "the prompt {prompt:?} makes no token, and this tokenizer has no start token: write at least a word"
                )));
            }
            self.add(tokens, owner, purpose, tokenizer);
        }
        Ok(())
    }

    fn add(&mut self, tokens: Vec<u32>, owner: usize, purpose: Purpose, tokenizer: &Tokenizer) {
        let start = self.passages.last().map_or(0, |passage| passage.rows.end);
        let has_start = tokens.first().copied().is_some_and(|first| tokenizer.bos() == Some(first));
        let rows = start..start + tokens.len();
        self.passages.push(Passage { tokens, owner, purpose, rows, has_start });
    }

    /// As many tokens of each expert's texts, in pieces; of every ten pieces one is held out.
    fn add_texts(&mut self, mixture: &Mixture, tokenizer: &Tokenizer, most: usize) -> Result<()> {
        let pieces = mixture.experts.iter().map(|expert| pieces(tokenizer, expert, most));
        let pieces = pieces.collect::<Result<Vec<_>>>()?;
        let count = pieces.iter().map(Vec::len).min().unwrap_or(0);
        if count < 2 {
            return Err(Error::request(format!(
                "texts: each expert needs two pieces of {PIECE} tokens at least, some to fit its gates to and some to check them on"
            )));
        }
        let fits = mixture.gate_mode == GateMode::Text;
        for (owner, own) in pieces.into_iter().enumerate() {
            for (i, tokens) in own.into_iter().take(count).enumerate() {
                let purpose = if fits && i % 10 != 1 { Purpose::Fitted } else { Purpose::HeldOut };
                self.add(tokens, owner, purpose, tokenizer);
            }
        }
        Ok(())
    }
}

/// A prompt as mergekit reads it: the start token's text in front, special tokens read as such, none added.
fn tokens_of(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let start = tokenizer.bos().map_or("", |bos| tokenizer.token_text(bos));
    tokenizer.encode(&format!("{start}{prompt}"), Special::Parse)
}

/// Pieces of an expert's texts, spread over all of them.
fn pieces(tokenizer: &Tokenizer, expert: &Expert, most: usize) -> Result<Vec<Vec<u32>>> {
    let start: Vec<u32> = tokenizer.bos().into_iter().collect();
    let content = PIECE - start.len();
    let mut all = Vec::new();
    for path in &expert.texts {
        let tokens = tokenizer.encode(&read(path)?, Special::Plain)?;
        all.extend(tokens.chunks_exact(content).map(|piece| [&start, piece].concat()));
    }
    let wanted = most.div_ceil(PIECE).max(2);
    if all.len() <= wanted {
        return Ok(all);
    }
    Ok((0..wanted).map(|i| all[i * all.len() / wanted].clone()).collect())
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    String::from_utf8(bytes).map_err(|_| Error::malformed("text", "UTF-8", "other bytes").in_file(path))
}
