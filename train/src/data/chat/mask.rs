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
}

/// A conversation as text.
struct Conversation {
    rendered: Rendered,
    spans: Vec<Span>,
    messages: usize,
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
    let spans = if blocks.len() == answers.len() {
        let trained = blocks.into_iter().zip(answers).filter(|(_, at)| turns[*at].is_trained);
        trained.map(|(bytes, message)| Span { bytes, ends_itself: true, message }).collect()
    } else if are_all_trained {
        // A template may join answers, or mark an answer in parts; only the last message has nothing after it.
        let (last, first) =
            (answers.last().copied().unwrap_or_default(), answers.first().copied().unwrap_or_default());
        let count = blocks.len();
        let message =
            |at: usize| if at + 1 == count { last } else { first.min(turns.len().saturating_sub(2)) };
        blocks
            .into_iter()
            .enumerate()
            .map(|(at, bytes)| Span { bytes, ends_itself: true, message: message(at) })
            .collect()
    } else {
        return Err(Error::request(format!(
            "the template marks {} parts of {} answers with {{% generation %}}, so none of these can be left untrained",
            blocks.len(),
            answers.len()
        )));
    };
    Ok(Conversation { rendered, spans, messages: turns.len(), is_last_only: false })
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
                Some(bytes) => spans.push(Span { bytes, ends_itself: false, message }),
                None => return self.last(trained.last().copied().unwrap_or(message)),
            }
        }
        Ok(Conversation { rendered: whole, spans, messages, is_last_only: false })
    }

    /// Only the answer in `message`, in a text that ends with it: earlier ones read otherwise once another follows.
    fn last(&self, message: usize) -> Result<Conversation> {
        let rendered = self.first(message + 1, false)?;
        let Some(bytes) = self.answer(message, rendered.text())? else {
            return Err(Error::request(format!(
                "messages[{message}]: the template writes other texts before an answer than in a prompt that asks for it; \
                 put {{% generation %}} and {{% endgeneration %}} around what is to be trained in the template"
            )));
        };
        let spans = vec![Span { bytes, ends_itself: false, message }];
        Ok(Conversation { rendered, spans, messages: message + 1, is_last_only: self.turns.len() > 1 })
    }

    /// What `with`, the text that ends with the answer in `message`, has more than the prompt that asks for it.
    fn answer(&self, message: usize, with: &str) -> Result<Option<Range<usize>>> {
        let asking = self.first(message, true)?;
        if with.starts_with(asking.text()) {
            return Ok(Some(asking.text().len()..with.len()));
        }
        // Some prompts begin a thought that an answer on record has not: they agree up to there.
        let before = self.first(message, false)?;
        let agreed = with.chars().zip(asking.text().chars()).take_while(|(a, b)| a == b);
        let agreed: usize = agreed.map(|(a, _)| a.len_utf8()).sum();
        let begins = with.starts_with(before.text()) && agreed > before.text().len();
        Ok(begins.then_some(agreed..with.len()))
    }
}

fn chat(conversation: Conversation, vocabulary: &Vocabulary) -> Result<Masked> {
    let Conversation { rendered, spans, messages, is_last_only } = conversation;
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
        if span.message + 1 < messages {
            return Err(Error::request(format!(
                "messages[{}]: the trained part of this answer ends in {:?}, which is no end token, though a message \
                 follows, so a model would never stop; let the template write eos_token after answers{}",
                span.message,
                masked.text.get(masked.encoded.places[tokens.end - 1].clone()).unwrap_or_default(),
                if span.ends_itself { ", within {% generation %}" } else { "" }
            )));
        }
        masked.notes.push(Note::Endless);
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

/// The stretch up to and with its first end token, else its last control token, else all of it.
fn up_to_end(bytes: Range<usize>, encoded: &Encoded, vocabulary: &Vocabulary) -> Range<usize> {
    let within = |place: &Range<usize>| place.start >= bytes.start && place.end <= bytes.end;
    let tokens = encoded.tokens.iter().zip(&encoded.places).filter(|(_, place)| within(place));
    let mut last = None;
    for (&token, place) in tokens {
        if vocabulary.is_end(token) {
            return bytes.start..place.end;
        }
        if vocabulary.is_control(token) {
            last = Some(place.end);
        }
    }
    bytes.start..last.unwrap_or(bytes.end)
}
