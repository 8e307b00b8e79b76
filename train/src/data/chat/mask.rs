//! Which tokens of an example are trained: those of the answers, with the token that ends each.
//!
//! Templates with `generation` blocks say it. With others an answer is what the text has more than a prompt that asks for
//! it, up to its end token: such a prompt is all that the model will be given. A conversation is encoded once, whole.

use super::example::{Example, Turn};
use super::note::Note;
use super::template::Template;
use super::vocabulary::{Encoded, Vocabulary};
use crate::{Error, Result};
use moewe_engine::tokenizer::{Message, Origin, Rendered};
use serde_json::{Map, Value as Json};
use std::ops::Range;

/// An example as tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Masked {
    pub text: String,
    pub encoded: Encoded,
    pub trained: Vec<bool>,         // per token
    pub answers: Vec<Range<usize>>, // of tokens: the trained stretches
    pub notes: Vec<Note>,
}

/// A part of a text that is trained.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    bytes: Range<usize>,
    ends_itself: bool, // else it goes up to the first end token in it
    message: usize,    // the one that it answers with
    after: After,
}

/// What comes after a trained part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Message,
    Nothing,
    Unknown, // perhaps more of the same answer
}

impl After {
    fn message(is_followed: bool) -> Self {
        if is_followed { Self::Message } else { Self::Nothing }
    }
}

/// A conversation as text.
struct Conversation {
    rendered: Rendered,
    spans: Vec<Span>,
    is_last_only: bool,
}

/// The tokens of `example`, and which of them are trained.
///
/// # Errors
/// What the template refuses, and answers that do not end.
pub(super) fn mask(
    example: &Example,
    vocabulary: &Vocabulary,
    template: Option<&Template>,
) -> Result<Masked> {
    match (example, template) {
        (Example::Text { prompt, completion }, _) => text(prompt, completion, vocabulary),
        (Example::Chat { turns, .. }, _) if !turns.iter().any(|turn| turn.is_trained) => {
            Ok(Masked { notes: vec![Note::NothingTrained], ..Masked::default() })
        }
        (Example::Chat { turns, tools }, Some(template)) => {
            let conversation = conversation(turns, tools.as_ref(), template)?;
            chat(conversation, vocabulary)
        }
        (Example::Chat { .. }, None) => Err(Error::request("a conversation without a template")),
    }
}

fn text(prompt: &str, completion: &str, vocabulary: &Vocabulary) -> Result<Masked> {
    if completion.is_empty() {
        return Ok(Masked { notes: vec![Note::NothingTrained], ..Masked::default() });
    }
    let mut text = format!("{prompt}{completion}");
    let encoded = vocabulary.encode_text(&mut text)?;
    let mut masked =
        Masked { trained: vec![false; encoded.tokens.len()], text, encoded, ..Masked::default() };
    masked.train(prompt.len()..masked.text.len());
    Ok(masked)
}

impl Masked {
    /// Trains every token that has a byte of `bytes`; the tokens that these are.
    fn train(&mut self, bytes: Range<usize>) -> Range<usize> {
        let has = |place: &Range<usize>| match place.is_empty() {
            true => bytes.contains(&place.start),
            false => place.start < bytes.end && place.end > bytes.start,
        };
        let mut tokens = (0..self.encoded.places.len()).filter(|&token| has(&self.encoded.places[token]));
        let Some(first) = tokens.next() else { return 0..0 };
        let last = tokens.next_back().unwrap_or(first);
        self.trained[first..=last].fill(true);
        self.answers.push(first..last + 1);
        first..last + 1
    }

    /// Cuts an example that is longer than `context`: after the last answer that fits, else within the first. Afterwards
    /// the first token is no label, since nothing predicts it.
    pub(super) fn cut(&mut self, context: usize) {
        let length = self.encoded.tokens.len();
        if length > context {
            let whole = self.answers.iter().rfind(|answer| answer.end <= context);
            let (end, note) = match whole {
                Some(answer) => (answer.end, Note::LaterTurns),
                None => (context, Note::LongAnswer),
            };
            self.encoded.tokens.truncate(end);
            self.encoded.places.truncate(end);
            self.trained.truncate(end);
            // What was beyond the context is not learnt, so it cannot be learnt wrongly.
            self.notes.retain(|note| *note != Note::Endless);
            self.notes.push(note);
        }
        if let Some(first) = self.trained.first_mut() {
            *first = false;
        }
        if !self.trained.contains(&true) && !self.is_left_out() {
            let note = if length > context { Note::LongPrompt } else { Note::NothingTrained };
            self.notes = vec![note];
        }
    }

    pub(super) fn is_left_out(&self) -> bool {
        self.notes.iter().any(|note| note.is_left_out())
    }

    /// Tokens that are labels.
    pub(super) fn labels(&self) -> usize {
        self.trained.iter().filter(|is_trained| **is_trained).count()
    }
}

fn conversation(turns: &[Turn], tools: Option<&Json>, template: &Template) -> Result<Conversation> {
    let messages: Vec<Message> = turns.iter().map(|turn| template.adapt(&turn.message)).collect();
    let variables: Map<String, Json> =
        tools.map(|tools| ("tools".to_owned(), tools.clone())).into_iter().collect();
    if template.has_blocks() {
        in_blocks(turns, &messages, template, &variables)
    } else {
        Prefixes { turns, messages: &messages, template, variables: &variables }.conversation()
    }
}

/// The template marks what is trained.
fn in_blocks(
    turns: &[Turn],
    messages: &[Message],
    template: &Template,
    variables: &Map<String, Json>,
) -> Result<Conversation> {
    let (rendered, blocks) = template.render_marked(messages, variables)?;
    let answers: Vec<usize> = (0..turns.len()).filter(|&at| turns[at].is_answer()).collect();
    let are_all_trained = answers.iter().all(|&at| turns[at].is_trained);
    let (count, messages) = (blocks.len(), turns.len());
    if count != answers.len() && !are_all_trained {
        return Err(Error::request(format!(
            "the template marks {count} parts of {} answers with {{% generation %}}, so none of these can be left untrained",
            answers.len()
        )));
    }
    let span = |(at, bytes): (usize, Range<usize>)| {
        // A template may join answers, or mark one in parts: then it is not known which message a part is of.
        let message = answers.get(at).or(answers.last()).copied().unwrap_or_default();
        let after = match at + 1 {
            _ if count == answers.len() => After::message(message + 1 < messages),
            last if last == count => After::message(answers.last() != Some(&(messages - 1))),
            _ => After::Unknown,
        };
        Span { bytes, ends_itself: true, message, after }
    };
    let spans = blocks.into_iter().enumerate().map(span);
    let spans =
        spans.filter(|span| !span.bytes.is_empty() && (are_all_trained || turns[span.message].is_trained));
    Ok(Conversation { spans: spans.collect(), rendered, is_last_only: false })
}

/// A conversation whose template marks nothing.
struct Prefixes<'a> {
    turns: &'a [Turn],
    messages: &'a [Message],
    template: &'a Template,
    variables: &'a Map<String, Json>,
}

impl Prefixes<'_> {
    /// The text of the first `count` messages.
    fn first(&self, count: usize, is_asking: bool) -> Result<Rendered> {
        self.template.render(&self.messages[..count], is_asking, self.variables)
    }

    fn conversation(&self) -> Result<Conversation> {
        let messages = self.turns.len();
        let whole = self.first(messages, false)?;
        let trained: Vec<usize> = (0..messages).filter(|&at| self.turns[at].is_trained).collect();
        let mut spans = Vec::with_capacity(trained.len());
        for &message in &trained {
            let with = if message + 1 == messages { whole.clone() } else { self.first(message + 1, false)? };
            match self.answer(message, with.text())?.filter(|_| whole.text().starts_with(with.text())) {
                Some(bytes) => {
                    let after = After::message(message + 1 < messages);
                    spans.push(Span { bytes, ends_itself: false, message, after });
                }
                None => return self.last(&trained),
            }
        }
        Ok(Conversation { rendered: whole, spans, is_last_only: false })
    }

    /// Only the last of the answers in `trained`, in a text that ends with it: earlier ones read otherwise once another
    /// follows.
    fn last(&self, trained: &[usize]) -> Result<Conversation> {
        let message = trained.last().copied().unwrap_or_default();
        let rendered = self.first(message + 1, false)?;
        let Some(bytes) = self.answer(message, rendered.text())? else {
            return Err(Error::request(format!(
                "messages[{message}]: the template writes other texts before an answer than in a prompt that asks for it; \
                 put {{% generation %}} and {{% endgeneration %}} around what is to be trained in the template"
            )));
        };
        let spans = vec![Span { bytes, ends_itself: false, message, after: After::Nothing }];
        Ok(Conversation { rendered, spans, is_last_only: trained.len() > 1 })
    }

    /// What `with`, the text that ends with the answer in `message`, has more than the prompt that asks for it.
    fn answer(&self, message: usize, with: &str) -> Result<Option<Range<usize>>> {
        let asking = match self.first(message, true) {
            // Many templates look at the first message, which a conversation that begins with an answer has not yet.
            Err(_) if message == 0 => return self.opening(with).map(Some),
            asking => asking?,
        };
        if with.starts_with(asking.text()) {
            return Ok(Some(asking.text().len()..with.len()));
        }
        // Some prompts begin a thought that an answer on record has not: they agree up to there.
        let before = self.first(message, false)?;
        let mut agreed = agreed(with, asking.text());
        if !with.starts_with(before.text()) || agreed <= before.text().len() {
            return Ok(None);
        }
        // Not within a tag, though: `<think>` and `<tool_call>` agree in two letters.
        let tag = with[..agreed].rfind(['\n', '>', ']']).map(|at| at + 1);
        agreed = tag.filter(|tag| *tag > before.text().len()).unwrap_or(agreed);
        Ok(Some(agreed..with.len()))
    }

    /// What `with`, the text of the first message alone, has from where another answer would be another text.
    fn opening(&self, with: &str) -> Result<Range<usize>> {
        let own = self.messages[0].content();
        let other = if own.trim_start().starts_with('x') { "y" } else { "x" };
        let other = self.messages[0].clone().with("content", Json::from(other));
        let other = self.template.render(&[other], false, self.variables)?;
        Ok(agreed(with, other.text())..with.len())
    }
}

/// Bytes at the beginning of both.
fn agreed(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

fn chat(conversation: Conversation, vocabulary: &Vocabulary) -> Result<Masked> {
    let Conversation { rendered, spans, is_last_only } = conversation;
    let encoded = vocabulary.encode(rendered.text(), &contents(&rendered))?;
    let mut masked = Masked {
        text: rendered.text().to_owned(),
        trained: vec![false; encoded.tokens.len()],
        ..Masked::default()
    };
    masked.encoded = encoded;
    for span in spans {
        let bytes =
            if span.ends_itself { span.bytes } else { up_to_end(span.bytes, &masked.encoded, vocabulary) };
        let tokens = masked.train(bytes);
        let last = tokens.clone().last().map(|last| masked.encoded.tokens[last]);
        if last.is_none_or(|last| vocabulary.is_end(last) || vocabulary.is_control(last)) {
            continue;
        }
        match span.after {
            After::Unknown => {}
            After::Nothing => masked.notes.push(Note::Endless),
            After::Message => {
                return Err(Error::request(format!(
                    "messages[{}]: the trained part of this answer ends in {:?}, which is no end token, though a message \
                     follows, so a model would never stop; let the template write eos_token after answers{}",
                    span.message,
                    masked.text.get(masked.encoded.places[tokens.end - 1].clone()).unwrap_or_default(),
                    if span.ends_itself { ", within {% generation %}" } else { "" }
                )));
            }
        }
    }
    masked.notes.extend(is_last_only.then_some(Note::LastOnly));
    masked.notes.extend(masked.encoded.spells_control.then_some(Note::SpellsControl));
    Ok(masked)
}

/// Where messages wrote what control tokens are made of.
fn contents(rendered: &Rendered) -> Vec<Range<usize>> {
    let mut end = 0;
    let places = rendered.parts().map(|(part, origin)| {
        let start = end;
        end += part.len();
        (start..end, origin)
    });
    places.filter(|(_, origin)| *origin == Origin::Content).map(|(place, _)| place).collect()
}

/// The stretch up to and with its first end token, else its last control token. Where it has neither, what follows it may
/// be an end token: some models stop with the token that begins the next turn.
fn up_to_end(bytes: Range<usize>, encoded: &Encoded, vocabulary: &Vocabulary) -> Range<usize> {
    let mut last = None;
    for (&token, place) in encoded.tokens.iter().zip(&encoded.places) {
        if place.start >= bytes.end {
            let follows = Some(place.end).filter(|_| vocabulary.is_end(token));
            return bytes.start..last.or(follows).unwrap_or(bytes.end);
        }
        if place.start >= bytes.start && place.end <= bytes.end {
            if vocabulary.is_end(token) {
                return bytes.start..place.end;
            }
            if vocabulary.is_control(token) {
                last = Some(place.end);
            }
        }
    }
    bytes.start..last.unwrap_or(bytes.end)
}
