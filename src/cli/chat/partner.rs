//! The model's side of a chat: settings, cache, and answering what the conversation asks.
//!
//! What the model generated is kept as tokens, so that the next prompt finds them in the cache even where the
//! tokenizer would cut the same text differently.

use super::conversation::Conversation;
use crate::cli::prompt;
use crate::cli::sampling::SamplingOptions;
use anyhow::{Result, bail};
use moewe_engine::generate::{Answer, Ending, Figures};
use moewe_engine::os::interrupt::Listener;
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Session};
use moewe_engine::tokenizer::{ChatTemplate, Tokenizer};

/// Positions that an answer should find free, as a part of the context.
const RESERVE: usize = 8;

/// A model that answers.
pub(crate) struct Partner<'e> {
    engine: &'e Engine,
    session: Session<'e>,
    template: Option<ChatTemplate>,
    options: SamplingOptions,
    sampler: Sampler,
    known: Known,
    latest: Option<Answered>,
}

/// How an answer went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// Why it ended.
    pub(crate) ending: Ending,
    /// What it took; of an answer in several parts, their sum.
    pub(crate) figures: Figures,
    /// Turns that left the model's view for it.
    pub(crate) left: usize,
}

impl Answered {
    /// Tokens of the prompt that the cache held.
    pub(crate) fn reused(&self) -> usize {
        self.figures.prompt.saturating_sub(self.figures.prefilled)
    }
}

impl<'e> Partner<'e> {
    pub(crate) fn new(engine: &'e Engine, options: SamplingOptions) -> Result<Self> {
        let template = prompt::template(engine)?;
        let sampler = sampler(engine, &options)?;
        let session = engine.session()?;
        Ok(Self { engine, session, template, options, sampler, known: Known::default(), latest: None })
    }

    pub(crate) fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Whether the model was made to chat, rather than to continue texts.
    pub(crate) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    pub(crate) fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Settings and seed in use.
    pub(crate) fn sampling(&self) -> (&Sampling, u64) {
        (self.sampler.sampling(), self.sampler.seed())
    }

    /// Other settings from now on.
    ///
    /// # Errors
    /// When one is out of range; then nothing changes.
    pub(crate) fn set(&mut self, options: SamplingOptions) -> Result<()> {
        self.sampler = sampler(self.engine, &options)?;
        self.options = options;
        Ok(())
    }

    /// The latest answer.
    pub(crate) fn latest(&self) -> Option<Answered> {
        self.latest
    }

    /// Positions in use.
    pub(crate) fn positions(&self) -> usize {
        self.session.tokens().len()
    }

    /// Answers the latest turn and puts the answer into the conversation. `show` gets the text as it comes.
    /// Where the context runs full in the middle of an answer, old turns leave and the answer goes on.
    pub(crate) fn answer(
        &mut self,
        conversation: &mut Conversation,
        listener: &Listener,
        mut show: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        self.session.stop_on(listener.flag());
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let mut total = Answered { ending: Ending::Stopped, figures: Figures::default(), left: 0 };
        loop {
            let (prompt_text, left) = self.fit(conversation, tokens.len())?;
            let limit = self.options.limit.map(|limit| limit - tokens.len());
            let mut part =
                Answer::resume(&mut self.session, &mut self.sampler, &self.known.tokens, &tokens, limit)?;
            while let Some(piece) = part.next_text()? {
                text.push_str(piece);
                show(piece)?;
            }
            let (figures, ending) = (part.figures(), part.ending().unwrap_or(Ending::Stopped));
            tokens.extend_from_slice(part.tokens());
            total = Answered {
                ending,
                figures: if total.figures.prompt == 0 { figures } else { sum(total.figures, figures) },
                left: total.left + left,
            };
            self.latest = Some(total);
            if ending != Ending::ContextFull || conversation.forgotten() + 1 >= conversation.len() {
                self.known =
                    Known { text: prompt_text + &text, tokens: [&self.known.tokens[..], &tokens].concat() };
                conversation.answer(text);
                return Ok(total);
            }
        }
    }

    /// The prompt's text, its tokens in `known`, and how many turns left. `answered` tokens will follow the prompt.
    fn fit(&mut self, conversation: &mut Conversation, answered: usize) -> Result<(String, usize)> {
        let context = self.engine.context_length();
        let reserve = context / RESERVE;
        let reserve = self.options.limit.map_or(reserve, |limit| limit.min(reserve)).max(1);
        let tokenizer = self.engine.tokenizer()?;
        let mut text = String::new();
        let fitted = conversation.fit(context, reserve + answered, |conversation| {
            text = match &self.template {
                Some(template) => prompt::render(tokenizer, template, &conversation.messages())?,
                None => conversation.text(),
            };
            self.known.encode(tokenizer, &text, self.template.is_none())
        })?;
        if fitted.tokens.is_empty() {
            bail!("there is nothing to continue yet");
        }
        self.known = Known { text: text.clone(), tokens: fitted.tokens };
        Ok((text, fitted.left))
    }
}

fn sampler(engine: &Engine, options: &SamplingOptions) -> Result<Sampler> {
    let sampling = options.over(Sampling::from_metadata(engine.metadata()));
    Ok(Sampler::new(sampling, engine.config().vocab_size)?)
}

/// Two parts of one answer.
fn sum(a: Figures, b: Figures) -> Figures {
    Figures {
        prompt: b.prompt,
        prefilled: b.prefilled,
        generated: a.generated + b.generated,
        decoded: a.decoded + b.decoded,
        prefill: b.prefill,
        decode: a.decode + b.decode,
    }
}

/// A text and the tokens that stand for it in the cache.
#[derive(Default)]
struct Known {
    text: String,
    tokens: Vec<u32>,
}

impl Known {
    /// Tokens of `text`: those known, where it begins with the known text and goes on with a control token, which no
    /// tokenizer merges with what stands before it; else all anew.
    fn encode(&self, tokenizer: &Tokenizer, text: &str, is_plain: bool) -> Result<Vec<u32>> {
        let rest = text.strip_prefix(&self.text).filter(|_| !self.text.is_empty());
        if let Some(rest) = rest {
            let tokens = prompt::encode(tokenizer, rest)?;
            let parted = tokens.first().is_none_or(|&first| {
                tokenizer.is_control(first) && rest.starts_with(tokenizer.token_text(first))
            });
            if parted {
                return Ok([&self.tokens[..], &tokens].concat());
            }
        }
        if is_plain { prompt::encode_text(tokenizer, text) } else { prompt::encode(tokenizer, text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::tokenizer::VocabularySpec;

    #[test]
    fn known_tokens_are_kept_where_a_control_token_follows() {
        let tokens = vec!["a", "b", "ab", "<end>"];
        let spec = VocabularySpec {
            model: "gpt2",
            pre: "gpt-2",
            tokens,
            types: vec![1, 1, 1, 3],
            merges: vec!["a b"],
            ..Default::default()
        };
        let tokenizer = Tokenizer::new(&spec).unwrap();
        // The model said a and b where the tokenizer would say ab.
        let known = Known { text: "ab<end>ab".into(), tokens: vec![2, 3, 0, 1] };
        for (text, expected) in [
            ("ab<end>ab<end>ab", &[2, 3, 0, 1, 3, 2][..]),
            ("ab<end>ab", &[2, 3, 0, 1]),
            ("ab<end>abab", &[2, 3, 2, 2]),
            ("ab<end>b<end>", &[2, 3, 1, 3]),
            ("ab", &[2]),
        ] {
            assert_eq!(known.encode(&tokenizer, text, false).unwrap(), expected, "{text}");
        }
        assert_eq!(Known::default().encode(&tokenizer, "<end>", false).unwrap(), [3]);
    }
}
