//! Grammars in answers with thoughts before them: these are free, and what is said is what the grammar admits.

use super::Guide;
use crate::dialogue::{Dialogue, Reader, StopScanner};
use crate::grammar::{Begins, Constraint, Grammar, Next, Vocabulary};
use crate::tokenizer::bytes::CHARACTERS;
use crate::tokenizer::{ChatTemplate, Tokenizer, VocabularySpec};

const THINKS: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and (loop.last or m.reasoning_content) %}<think>\n{{ (m.reasoning_content or '').strip('\\n') }}\n</think>\n\n{{ m.content.lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// All bytes, some words, then controls, the last of which ends an answer. Tags are tokens of their own, or are not.
fn tokenizer(has_tags: bool) -> Tokenizer {
    let words = ["\n\n", " ", ">{", ">\n", "{\"", "th", "<th", "nk>", "</", "abc"];
    let spell = |word: &str| word.bytes().map(|byte| CHARACTERS[usize::from(byte)]).collect::<String>();
    let words = words.map(spell);
    let bytes: Vec<String> = CHARACTERS.iter().map(char::to_string).collect();
    let controls = if has_tags { &["<think>", "</think>", "<|im_end|>"][..] } else { &["<|im_end|>"] };
    let tokens: Vec<&str> =
        bytes.iter().chain(&words).map(String::as_str).chain(controls.iter().copied()).collect();
    let types =
        (0..tokens.len()).map(|token| if token < bytes.len() + words.len() { 1 } else { 3 }).collect();
    Tokenizer::new(&VocabularySpec { model: "gpt2", pre: "gpt-2", tokens, types, ..Default::default() })
        .unwrap()
}

struct Game {
    tokenizer: Tokenizer,
    guide: Guide,
    reader: Reader,
}

impl Game {
    fn new(has_tags: bool, prompt: &str, grammar: Grammar) -> Self {
        let tokenizer = tokenizer(has_tags);
        let vocabulary = Vocabulary::new(&tokenizer, tokenizer.vocabulary_size() + 3).unwrap();
        let matcher = vocabulary.compile(&grammar).unwrap();
        let dialogue = Dialogue::of(&ChatTemplate::new(THINKS, "", "").unwrap());
        assert!(dialogue.has_reasoning());
        let reader = dialogue.reader(prompt, StopScanner::default(), None);
        Self { guide: Guide::new(Constraint { matcher, begins: Begins::AfterThought }), tokenizer, reader }
    }

    /// The tokens that may come; none at the end.
    fn allowed(&mut self) -> Vec<u32> {
        match self.guide.next(&self.reader, &self.tokenizer).unwrap() {
            Next::End => vec![],
            Next::Tokens(mask) => mask.tokens().collect(),
        }
    }

    fn say(&mut self, token: u32) -> crate::Result<()> {
        assert!(self.allowed().contains(&token), "{:?}", self.tokenizer.token_text(token));
        let is_claimed = self.guide.claims(token, &self.reader)?;
        self.reader.push(&self.tokenizer, token);
        self.guide.follow(token, is_claimed, &self.reader)
    }

    /// Says these texts of tokens.
    fn says(&mut self, texts: &[&str]) -> crate::Result<()> {
        texts.iter().try_for_each(|text| {
            let all = 0..self.tokenizer.vocabulary_size() as u32;
            let is_it = |&token: &u32| match self.tokenizer.is_control(token) {
                true => self.tokenizer.token_text(token) == *text,
                false => self.tokenizer.piece_bytes(token) == text.as_bytes(),
            };
            let token = all.rev().find(is_it).unwrap();
            self.say(token)
        })
    }
}

fn object() -> Grammar {
    Grammar::JsonSchema(
        serde_json::json!({ "type": "object", "additionalProperties": { "type": "integer" } }),
    )
}

#[test]
fn thoughts_are_free_and_the_answer_is_not() {
    for (has_tags, prompt, thought) in [
        (true, "<|im_start|>assistant\n", &["<think>", "a", "}", "\n\n", "</think>", "\n\n"][..]),
        (true, "<|im_start|>assistant\n", &["\n\n", "<think>", "</think>"]),
        (true, "<think>\n", &["a", "<", "</think>", " "]),
        (true, "<think>\n\n</think>\n\n", &[]),
        (true, "<|im_start|>assistant\n", &[" ", "\n\n"]),
        (false, "<|im_start|>assistant\n", &["<th", "i", "nk>", "abc", "</", "th", "i", "nk>", "\n\n"]),
        (
            false,
            "<|im_start|>assistant\n",
            &["<", "th", "i", "n", "k", ">\n", "abc", "</", "th", "i", "n", "k", ">\n"],
        ),
    ] {
        let mut game = Game::new(has_tags, prompt, object());
        game.says(thought).unwrap();
        let text = |game: &Game, tokens: Vec<u32>| -> Vec<String> {
            tokens
                .iter()
                .map(|&token| String::from_utf8_lossy(game.tokenizer.piece_bytes(token)).into())
                .collect()
        };
        let allowed = game.allowed();
        assert!(!allowed.iter().any(|&token| game.tokenizer.is_end(token)), "{thought:?}");
        let allowed = text(&game, allowed);
        assert!(
            allowed.contains(&"{\"".into()) && !allowed.contains(&"abc".into()),
            "{thought:?}: {allowed:?}"
        );
        game.says(&["{\"", "abc", "\"", ":", "1", "}"]).unwrap();
        assert!(game.guide.must_end(), "{thought:?}");
        assert!(game.allowed().is_empty());
        // White space before an answer without a thought is shown.
        assert_eq!(game.reader.answer().trim_start(), "{\"abc\":1}", "{thought:?}");
    }
}

#[test]
fn what_stands_behind_the_tag_is_the_grammars() {
    let mut game = Game::new(false, "<think>\n", object());
    game.says(&["abc", "</", "th", "i", "n", "k", ">{", "}"]).unwrap();
    assert!(game.guide.must_end());
    assert_eq!((game.reader.reasoning(), game.reader.answer()), ("abc", "{}"));
    // What the grammar does not admit there ends the answer.
    let mut game = Game::new(false, "<think>\n", Grammar::Regex("b".into()));
    assert!(game.says(&["abc", "</", "th", "i", "n", "k", ">{"]).is_err());
}

#[test]
fn a_thought_does_not_end_the_answer_and_white_space_does_not_last() {
    let mut game = Game::new(true, "<think>\n", object());
    let allowed = game.allowed();
    assert!(!allowed.iter().any(|&token| game.tokenizer.is_end(token)));
    assert_eq!(allowed.len(), game.tokenizer.vocabulary_size() - 1 + 3);
    game.says(&["</think>", "\n\n", "\n\n", "\n\n", "\n\n"]).unwrap();
    assert!(game.says(&["{\"", "abc", "\"", ":", "1", "}"]).is_ok());
    let mut game = Game::new(true, "<think>\n", Grammar::Regex("( |a){3}".into()));
    game.says(&["</think>", "\n\n", "\n\n", "\n\n", "\n\n"]).unwrap();
    let allowed = game.allowed();
    let texts: Vec<_> = allowed.iter().map(|&token| game.tokenizer.piece_bytes(token)).collect();
    assert!(texts.iter().all(|text| [&b" "[..], b"a"].contains(text)), "{texts:?}");
}
