//! The model's side of a chat: settings, cache, and answering what the conversation asks.
//!
//! What the model generated is kept as tokens, so that the next prompt finds them in the cache even where the
//! tokenizer would cut the same text differently.

use super::conversation::Conversation;
use crate::cli::grammar::guided;
use crate::cli::prompt::{self, PromptOptions, Template, Think};
use crate::cli::reading::Ahead;
use crate::cli::sampling::SamplingOptions;
use anyhow::{Result, bail};
use moewe_engine::dialogue::{Dialogue, Piece, Reader};
use moewe_engine::generate::{Answer, Ending, Figures};
use moewe_engine::grammar::Constraint;
use moewe_engine::os::interrupt::Listener;
use moewe_engine::sampler::{Sampler, Sampling};
use moewe_engine::session::{Engine, Session};
use moewe_engine::tokenizer::{Rendered, Tokenizer};

/// Positions that an answer should find free, as a part of the context.
const RESERVE: usize = 8;

/// A model that answers.
pub(crate) struct Partner<'e> {
    engine: &'e Engine,
    session: Session<'e>,
    template: Option<Template>,
    prompting: PromptOptions,
    think: Think,
    options: SamplingOptions,
    sampler: Sampler,
    constraint: Option<Constraint>, // of each answer
    quiet: bool,
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
    pub(crate) fn new(
        engine: &'e Engine,
        options: SamplingOptions,
        prompting: PromptOptions,
        constraint: Option<Constraint>,
        quiet: bool,
    ) -> Result<Self> {
        Ok(Self {
            template: prompting.template(engine.metadata(), engine.tokenizer()?)?,
            think: prompting.thinks(quiet),
            sampler: sampler(engine, &options)?,
            session: engine.session()?,
            known: Known::default(),
            latest: None,
            constraint,
            engine,
            prompting,
            options,
            quiet,
        })
    }

    pub(crate) fn engine(&self) -> &'e Engine {
        self.engine
    }

    /// Whether the model was made to chat, rather than to continue texts.
    pub(crate) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// What becomes of thoughts.
    pub(crate) fn think(&self) -> Think {
        self.think
    }

    /// Other thoughts about thoughts from now on.
    pub(crate) fn set_think(&mut self, think: Think) {
        self.think = think;
        if let (Think::Off, Some(template)) = (think, &self.template) {
            template.say_without_switch();
        }
    }

    /// The flags in use.
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
        mut show: impl FnMut(&Piece) -> Result<()>,
    ) -> Result<Answered> {
        self.session.stop_on(listener.flag());
        let mut tokens = Vec::new();
        let mut left = self.fit(conversation, 0)?;
        let mut guided = guided(self.reader(), self.constraint.as_ref()); // of the whole answer, in however many parts
        let mut figures: Option<Figures> = None;
        loop {
            let limit = self.options.limit().map(|limit| limit - tokens.len());
            let prompt = &self.known.tokens;
            let ahead = Ahead::read(&mut self.session, &[&prompt[..], &tokens].concat(), self.quiet)?;
            let mut part =
                Answer::resume(&mut self.session, &mut self.sampler, prompt, &tokens, limit, guided)?;
            while let Some(pieces) = part.next_pieces()? {
                pieces.iter().try_for_each(&mut show)?;
            }
            tokens.extend_from_slice(part.tokens());
            let ending = part.ending().unwrap_or(Ending::Stopped);
            let added = ahead.added_to(part.figures());
            let total = figures.map_or(added, |before| sum(before, added));
            let answered = Answered { ending, figures: total, left };
            self.latest = Some(answered);
            figures = Some(total);
            if ending != Ending::ContextFull || conversation.forgotten() + 1 >= conversation.len() {
                part.flush().iter().try_for_each(&mut show)?;
                let reader = part.into_guided().reader;
                self.known.tokens.extend_from_slice(&tokens);
                self.known.answer = reader.raw().to_owned();
                conversation.answer(Some(reader.reasoning().to_owned()), reader.answer());
                return Ok(answered);
            }
            guided = part.into_guided();
            left += self.fit(conversation, tokens.len())?;
        }
    }

    /// Reads what answers the prompt in `known`.
    fn reader(&self) -> Reader {
        let dialogue =
            self.template.as_ref().map_or_else(Dialogue::plain, |template| template.dialogue().clone());
        dialogue.reader(self.known.prompt.text(), self.prompting.stops(), None)
    }

    /// Puts the prompt into `known` and returns how many turns left. `answered` tokens will follow the prompt.
    fn fit(&mut self, conversation: &mut Conversation, answered: usize) -> Result<usize> {
        let context = self.engine.context_length();
        let reserve = context / RESERVE;
        let reserve = self.options.limit().map_or(reserve, |limit| limit.min(reserve)).max(1);
        let tokenizer = self.engine.tokenizer()?;
        let mut prompt = Rendered::default();
        let fitted = conversation.fit(context, reserve + answered, |conversation| {
            prompt = match &self.template {
                Some(template) => template.render(&conversation.messages(), self.think)?,
                None => conversation.text().into(),
            };
            self.known.encode(tokenizer, &prompt, self.template.is_none())
        })?;
        if fitted.tokens.is_empty() {
            bail!("there is nothing to continue yet");
        }
        self.known = Known { prompt, answer: String::new(), tokens: fitted.tokens };
        Ok(fitted.left)
    }
}

fn sampler(engine: &Engine, options: &SamplingOptions) -> Result<Sampler> {
    let vocab_size = engine.config().vocab_size;
    let sampling = options.for_vocabulary(Sampling::from_metadata(engine.metadata()), vocab_size)?;
    Ok(Sampler::new(sampling, vocab_size)?)
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

/// A prompt and its answer, and the tokens that stand for them in the cache.
#[derive(Default)]
struct Known {
    prompt: Rendered,
    answer: String, // as it was generated
    tokens: Vec<u32>,
}

impl Known {
    /// Tokens of `prompt`: those known, where it begins with what is known and goes on with a control token, which no
    /// tokenizer merges with what stands before it; else all anew.
    fn encode(&self, tokenizer: &Tokenizer, prompt: &Rendered, is_plain: bool) -> Result<Vec<u32>> {
        let rest = prompt.after(&self.prompt, &self.answer).filter(|_| !self.tokens.is_empty());
        if let Some(rest) = rest {
            let tokens = tokenizer.encode_parts(rest.parts())?;
            let parted = tokens.first().is_none_or(|&first| {
                tokenizer.is_control(first) && rest.text().starts_with(tokenizer.token_text(first))
            });
            if parted {
                return Ok([&self.tokens[..], &tokens].concat());
            }
        }
        if is_plain {
            return prompt::encode_text(tokenizer, prompt.text());
        }
        Ok(tokenizer.encode_parts(prompt.parts())?)
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
        let known =
            Known { prompt: "ab<end>".to_owned().into(), answer: "ab".into(), tokens: vec![2, 3, 0, 1] };
        for (text, expected) in [
            ("ab<end>ab<end>ab", &[2, 3, 0, 1, 3, 2][..]),
            ("ab<end>ab", &[2, 3, 0, 1]),
            ("ab<end>abab", &[2, 3, 2, 2]),
            ("ab<end>b<end>", &[2, 3, 1, 3]),
            ("ab", &[2]),
        ] {
            assert_eq!(known.encode(&tokenizer, &text.to_owned().into(), false).unwrap(), expected, "{text}");
        }
        assert_eq!(Known::default().encode(&tokenizer, &"<end>".to_owned().into(), false).unwrap(), [3]);
    }
}
