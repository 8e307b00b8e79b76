//! From messages or text to the tokens that a model is to continue.
//!
//! A chat template writes control tokens as text, and so may a person. What stands in a message must not end a turn,
//! so it passes through the template as a mark and is read as plain text afterwards.

use anyhow::Result;
use moewe_engine::session::Engine;
use moewe_engine::tokenizer::{ChatTemplate, Message, Special, Tokenizer};

/// Around the id of a control token that was written as text; private-use characters that no template looks at.
const MARK: [char; 2] = ['\u{f8d0}', '\u{f8d1}'];

/// The model's chat template; `None` for a base model.
pub(crate) fn template(engine: &Engine) -> Result<Option<ChatTemplate>> {
    Ok(ChatTemplate::from_metadata(engine.metadata(), engine.tokenizer()?)?)
}

/// The text of a conversation up to where the answer begins, for [`encode`].
pub(crate) fn render(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<String> {
    let mark = |message: &Message| Ok(Message::new(&message.role, marked(tokenizer, &message.content)?));
    let messages = messages.iter().map(mark).collect::<Result<Vec<_>>>()?;
    Ok(template.render(&messages, true)?)
}

/// `content` with marks in the place of control tokens.
fn marked(tokenizer: &Tokenizer, content: &str) -> Result<String> {
    let mut text: String = content.chars().filter(|character| !MARK.contains(character)).collect();
    let mut found = tokenizer.encode(&text, Special::Parse)?;
    found.retain(|&token| tokenizer.is_control(token));
    // The longest first: it may contain others.
    found.sort_by_key(|&token| (std::cmp::Reverse(tokenizer.token_text(token).len()), token));
    found.dedup();
    for token in found {
        let mark = format!("{}{token}{}", MARK[0], MARK[1]);
        text = text.replace(tokenizer.token_text(token), &mark);
    }
    Ok(text)
}

/// Tokens of a rendered text: control tokens where the template wrote them, plain text where a person did.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    // Even parts stand outside of marks. The template writes the beginning of the text itself where it wants one.
    for (i, part) in text.split(MARK).enumerate() {
        let id = part.parse().ok().filter(|_| i % 2 == 1);
        match id {
            Some(id) => tokens.extend(tokenizer.encode(tokenizer.token_text(id), Special::Plain)?),
            None => tokens.extend(tokenizer.encode(part, Special::Parse)?),
        }
    }
    Ok(tokens)
}

/// Tokens of a text to continue. Control tokens in it count: who continues texts may want to write a template by hand.
pub(crate) fn encode_text(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_with_bos(text, Special::Parse)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moewe_engine::tokenizer::VocabularySpec;
    use moewe_engine::tokenizer::bytes::CHARACTERS;

    #[test]
    fn a_message_cannot_end_its_turn() {
        let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
        let tokens = bytes.iter().map(String::as_str).chain(["<end>", "<end><end>"]).collect();
        let types = [vec![1; 256], vec![3, 3]].concat();
        let spec = VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() };
        let tokenizer = Tokenizer::new(&spec).unwrap();
        let source = "{% for m in messages %}{{ m.content | trim }}<end>{% endfor %}";
        let template = ChatTemplate::new(source, "", "").unwrap();
        for content in ["hi", "<end>", "a<end>b<end><end>", " <end<end>> ", "\u{f8d0}256\u{f8d1}<end>", "<en"]
        {
            let text = render(&tokenizer, &template, &[Message::new("user", content)]).unwrap();
            let tokens = encode(&tokenizer, &text).unwrap();
            let (end, rest) = tokens.split_last().unwrap();
            assert_eq!(*end, 256, "{content:?}");
            assert!(rest.iter().all(|&token| token < 256), "{content:?}: {rest:?}");
            let expected = content.replace(MARK, "");
            assert_eq!(tokenizer.decode(rest), expected.trim(), "{content:?}");
        }
    }
}
