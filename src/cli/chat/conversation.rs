//! What was said: turns, which of them the model still sees, and their JSON form. Knows neither model nor terminal.
//!
//! Forgotten turns stay in the conversation, so that it can be saved whole; the model's view begins after them.

use anyhow::{Result, bail};
use moewe_engine::tokenizer::Message;
use serde::{Deserialize, Serialize};

/// A question and its answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Turn {
    /// What the person said.
    pub(crate) question: String,
    /// What the model thought before it answered.
    pub(crate) reasoning: Option<String>,
    /// What the model said; `None` until it has.
    pub(crate) answer: Option<String>,
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conversation {
    /// What the model knows beforehand.
    pub(crate) system: Option<String>,
    turns: Vec<Turn>,
    forgotten: usize, // oldest turns that the model no longer sees
}

/// What fits: the tokens of the model's view, and how many turns had to leave for it.
#[derive(Debug, PartialEq)]
pub(crate) struct Fitted {
    pub(crate) tokens: Vec<u32>,
    pub(crate) left: usize,
}

impl Conversation {
    /// A new turn; a question that is still open takes it in, since templates want turns to alternate.
    pub(crate) fn ask(&mut self, question: impl Into<String>) {
        let question = question.into();
        match self.turns.last_mut().filter(|turn| turn.answer.is_none()) {
            Some(open) => open.question = format!("{}\n\n{question}", open.question),
            None => self.turns.push(Turn { question, reasoning: None, answer: None }),
        }
    }

    /// Completes the latest turn.
    pub(crate) fn answer(&mut self, reasoning: Option<String>, answer: impl Into<String>) {
        if let Some(turn) = self.turns.last_mut() {
            turn.reasoning = reasoning.filter(|text| !text.is_empty());
            turn.answer = Some(answer.into());
        }
    }

    /// The latest turn.
    pub(crate) fn latest(&self) -> Option<&Turn> {
        self.turns.last()
    }

    /// Whether the latest turn has no answer.
    pub(crate) fn is_open(&self) -> bool {
        self.turns.last().is_some_and(|turn| turn.answer.is_none())
    }

    /// Takes the latest turn back.
    pub(crate) fn undo(&mut self) -> Option<Turn> {
        let turn = self.turns.pop();
        self.forgotten = self.forgotten.min(self.turns.len().saturating_sub(1));
        turn
    }

    /// Takes the latest answer back, if it has come; `false` where there is no turn.
    pub(crate) fn unanswer(&mut self) -> bool {
        let latest = self.turns.last_mut();
        latest.map(|turn| (turn.reasoning, turn.answer) = (None, None)).is_some()
    }

    /// Forgets everything but the system prompt.
    pub(crate) fn reset(&mut self) {
        self.turns.clear();
        self.forgotten = 0;
    }

    /// Number of turns.
    pub(crate) fn len(&self) -> usize {
        self.turns.len()
    }

    /// How many of the oldest turns the model no longer sees.
    pub(crate) fn forgotten(&self) -> usize {
        self.forgotten
    }

    fn view(&self) -> &[Turn] {
        &self.turns[self.forgotten..]
    }

    /// What the model sees, for a chat template.
    pub(crate) fn messages(&self) -> Vec<Message> {
        messages(self.system.as_deref(), self.view())
    }

    /// What the model sees, as one text to continue.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for turn in self.view() {
            if !text.is_empty() && !turn.question.is_empty() {
                text.push('\n');
            }
            text.push_str(&turn.question);
            text.push_str(turn.answer.as_deref().unwrap_or_default());
        }
        text
    }

    /// Lets the oldest turns leave until the view's tokens (as `measure` gives them) leave `reserve` of `context`
    /// positions free. The latest turn always stays. When turns leave, a quarter of the context is freed, since
    /// every leaving means that all that follows the system prompt is computed anew.
    pub(crate) fn fit(
        &mut self,
        context: usize,
        reserve: usize,
        mut measure: impl FnMut(&Self) -> Result<Vec<u32>>,
    ) -> Result<Fitted> {
        let (mut tokens, before) = (measure(self)?, self.forgotten);
        if tokens.len() + reserve > context {
            let goal = context - reserve.max(context / 4).min(context);
            while tokens.len() > goal && self.forgotten + 1 < self.turns.len() {
                self.forgotten += 1;
                tokens = measure(self)?;
            }
        }
        if tokens.len() >= context {
            self.forgotten = before;
            bail!("this message makes {} tokens, which do not fit the context of {context}", tokens.len());
        }
        Ok(Fitted { tokens, left: self.forgotten - before })
    }

    /// The whole conversation for a file.
    pub(crate) fn to_saved(&self, model: &str) -> Saved {
        Saved { model: model.to_owned(), messages: messages(self.system.as_deref(), &self.turns) }
    }

    /// The conversation that a file holds.
    pub(crate) fn from_messages(messages: Vec<Message>) -> Result<Self> {
        let mut conversation = Self::default();
        for (i, message) in messages.into_iter().enumerate() {
            let open = conversation.turns.last().is_some_and(|turn| turn.answer.is_none());
            match message.role() {
                "system" if i == 0 => conversation.system = Some(message.content()),
                "user" if !open => conversation.ask(message.content()),
                "assistant" if open => {
                    conversation.answer(message.reasoning().map(str::to_owned), message.content());
                }
                role => bail!("message {} of role {role:?} has no place there", i + 1),
            }
        }
        Ok(conversation)
    }
}

fn messages(system: Option<&str>, turns: &[Turn]) -> Vec<Message> {
    let mut messages: Vec<_> = system.map(|text| Message::new("system", text)).into_iter().collect();
    for turn in turns {
        messages.push(Message::new("user", &turn.question));
        messages.extend(turn.answer.as_ref().map(|answer| {
            let message = Message::new("assistant", answer);
            match &turn.reasoning {
                Some(reasoning) => message.with_reasoning(reasoning),
                None => message,
            }
        }));
    }
    messages
}

/// A conversation as `/save` writes it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Who answered; for the reader's information.
    #[serde(default)]
    pub(crate) model: String,
    /// All messages, the system prompt first.
    pub(crate) messages: Vec<Message>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(turns: &[(&str, Option<&str>)]) -> Conversation {
        let mut conversation = Conversation { system: Some("s".into()), ..Default::default() };
        for (question, answer) in turns {
            conversation.ask(*question);
            answer.iter().for_each(|answer| conversation.answer(None, *answer));
        }
        conversation
    }

    /// One token per character of all messages.
    fn characters(conversation: &Conversation) -> Result<Vec<u32>> {
        let messages = conversation.messages();
        Ok(messages
            .iter()
            .flat_map(|message| message.content().chars().collect::<Vec<_>>())
            .map(u32::from)
            .collect())
    }

    #[test]
    fn the_oldest_turns_leave_and_the_system_prompt_stays() {
        let mut conversation = of(&[("aaaa", Some("bbbb")), ("cccc", Some("dddd")), ("eee", None)]);
        let all = characters(&conversation).unwrap().len();
        assert_eq!(all, 20);
        let roomy = conversation.fit(30, 10, characters).unwrap();
        assert_eq!((roomy.left, roomy.tokens.len()), (0, 20));
        // 29 positions cannot hold 20 tokens and 10 more: the first turn leaves, 12 tokens stay.
        let tight = conversation.fit(29, 10, characters).unwrap();
        assert_eq!((tight.left, tight.tokens.len()), (1, 12));
        assert_eq!(conversation.messages()[0], Message::new("system", "s"));
        assert_eq!(conversation.messages()[1], Message::new("user", "cccc"));
        assert_eq!((conversation.forgotten(), conversation.len()), (1, 3));
        // Everything that can leave has left; less than the reserve is better than nothing.
        let tightest = conversation.fit(6, 5, characters).unwrap();
        assert_eq!((tightest.left, tightest.tokens.len()), (1, 4));
        let error = conversation.fit(4, 1, characters).unwrap_err().to_string();
        assert!(error.contains("4 tokens") && error.contains("context of 4"), "{error}");
    }

    #[test]
    fn undo_always_leaves_the_latest_turn_in_view() {
        let mut conversation = of(&[("aaaa", Some("bbbb")), ("cccc", Some("dddd")), ("e", None)]);
        conversation.fit(8, 4, characters).unwrap();
        assert_eq!(conversation.forgotten(), 2);
        assert!(conversation.unanswer() && conversation.is_open());
        assert_eq!(conversation.undo().unwrap().question, "e");
        assert_eq!(conversation.messages().len(), 3);
        assert!(conversation.unanswer());
        assert_eq!(conversation.messages().last().unwrap().content(), "cccc");
        conversation.undo();
        conversation.undo();
        assert_eq!((conversation.undo(), conversation.messages().len()), (None, 1));
    }

    #[test]
    fn an_open_question_takes_in_what_is_asked_next() {
        let mut conversation = of(&[("a", None)]);
        assert!(conversation.unanswer());
        conversation.ask("b");
        assert_eq!(conversation.messages()[1..], [Message::new("user", "a\n\nb")]);
        assert!(!of(&[]).unanswer() && !of(&[]).is_open());
    }

    #[test]
    fn a_base_model_sees_one_text() {
        let mut conversation = of(&[("Once upon", Some(" a time")), ("", Some(" there")), ("Then", None)]);
        assert_eq!(conversation.text(), "Once upon a time there\nThen");
        conversation.reset();
        assert_eq!(conversation.text(), "");
    }

    #[test]
    fn saving_and_loading() {
        let mut conversation = of(&[("a", Some("b")), ("c", Some("d"))]);
        conversation.fit(4, 1, characters).unwrap();
        assert_eq!(conversation.forgotten(), 1);
        let json = serde_json::to_string(&conversation.to_saved("m")).unwrap();
        let saved: Saved = serde_json::from_str(&json).unwrap();
        let loaded = Conversation::from_messages(saved.messages).unwrap();
        assert_eq!(loaded, of(&[("a", Some("b")), ("c", Some("d"))]));
        conversation.answer(Some("r".into()), "d");
        let saved = conversation.to_saved("m").messages;
        assert_eq!(saved[4], Message::new("assistant", "d").with_reasoning("r"));
        assert_eq!(Conversation::from_messages(saved).unwrap().messages()[4].reasoning(), Some("r"));
        for roles in [&["assistant"][..], &["user", "user"], &["user", "system"], &["tool"]] {
            let messages = roles.iter().map(|role| Message::new(*role, "x")).collect();
            assert!(Conversation::from_messages(messages).is_err(), "{roles:?}");
        }
    }
}
