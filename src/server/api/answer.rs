//! One answer as it grows, whatever interface tells it: its parts in their order, why it ended, and what it took.

use super::identifier;
use crate::server::scheduler::{Event, TokenOdds, Usage};
use moewe_engine::dialogue::Piece;
use moewe_engine::generate::Ending;
use serde_json::{Map, Value};

/// A stretch of an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Thought(String),
    Text(String),
    Call(Call),
}

/// A tool that is called.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    /// 24 letters and digits, before which each interface puts its own prefix.
    pub(super) id: String,
    pub(super) name: String,
    /// JSON, as far as it came.
    pub(super) arguments: String,
}

impl Call {
    /// The arguments; `None` where the answer was cut within them.
    pub(super) fn object(&self) -> Option<Map<String, Value>> {
        let text = self.arguments.trim();
        if text.is_empty() { Some(Map::new()) } else { serde_json::from_str(text).ok() }
    }
}

/// What an event added to a part.
#[derive(Debug, PartialEq)]
pub(super) struct News {
    /// Which part it is.
    pub(super) part: usize,
    /// Whether the part begins with it. The beginning of a call brings its name and no text.
    pub(super) begins: bool,
    /// More of a thought, of a text, or of a call's arguments.
    pub(super) text: String,
    /// Of the tokens that a text is made of.
    pub(super) odds: Vec<TokenOdds>,
}

/// One answer, so far.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) parts: Vec<Part>,
    pub(super) tokens: Vec<u32>,
    /// Tokens of thoughts.
    pub(super) thoughts: usize,
    pub(super) usage: Usage,
    pub(super) ending: Option<Ending>,
    /// The stop string that ended it.
    pub(super) stop: Option<String>,
    odds: Vec<TokenOdds>, // of tokens whose text has not come
}

impl Answer {
    /// Takes an event in, and says what it brings.
    pub(super) fn take(&mut self, event: Event) -> Vec<News> {
        let (pieces, newest) = match event {
            Event::Begun { .. } | Event::Read { .. } | Event::Scored(_) | Event::Failed(_) => return vec![],
            Event::Token { token, pieces, odds, usage } => {
                self.tokens.push(token);
                self.usage = usage;
                let newest = self.odds.len();
                self.odds.extend(odds);
                (pieces, Some(newest))
            }
            Event::Ended { ending, stop, pieces, usage } => {
                (self.ending, self.stop, self.usage) = (Some(ending), stop, usage);
                (pieces, None)
            }
        };
        let mut news: Vec<News> = vec![];
        for piece in pieces {
            // What stood between thoughts or calls and a text belongs to neither.
            let is_text = matches!(self.parts.last(), None | Some(Part::Text(_)));
            if matches!(piece, Piece::Answer(_)) && !is_text {
                let until = newest.unwrap_or(self.odds.len());
                self.odds.drain(..until.min(self.odds.len()));
            }
            let (begins, text) = self.push(piece);
            let part = self.parts.len() - 1;
            match news.last_mut() {
                Some(last) if last.part == part && !last.text.is_empty() => last.text.push_str(&text),
                _ => news.push(News { part, begins, text, odds: vec![] }),
            }
        }
        match self.parts.last() {
            Some(Part::Thought(_)) => {
                self.thoughts += usize::from(newest.is_some());
                self.odds.clear();
            }
            Some(Part::Call(_)) => self.odds.clear(),
            None | Some(Part::Text(_)) => {}
        }
        let is_text = |news: &&mut News| matches!(self.parts[news.part], Part::Text(_));
        if let Some(text) = news.iter_mut().rev().find(is_text) {
            text.odds = std::mem::take(&mut self.odds);
        }
        news
    }

    /// Adds a piece to the last part or begins another one, which it says.
    fn push(&mut self, piece: Piece) -> (bool, String) {
        match (piece, self.parts.last_mut()) {
            (Piece::Reasoning(more), Some(Part::Thought(text)))
            | (Piece::Answer(more), Some(Part::Text(text)))
            | (Piece::Arguments(more), Some(Part::Call(Call { arguments: text, .. }))) => {
                text.push_str(&more);
                (false, more)
            }
            (Piece::Reasoning(text), _) => {
                self.parts.push(Part::Thought(text.clone()));
                (true, text)
            }
            // Arguments of nothing would be a fault of the reader's; as text nothing of them is lost.
            (Piece::Answer(text) | Piece::Arguments(text), _) => {
                self.parts.push(Part::Text(text.clone()));
                (true, text)
            }
            (Piece::Call(name), _) => {
                self.parts.push(Part::Call(Call { id: identifier(""), name, arguments: String::new() }));
                (true, String::new())
            }
        }
    }

    /// What it says.
    pub(super) fn text(&self) -> String {
        let text = |part: &Part| if let Part::Text(text) = part { Some(text.clone()) } else { None };
        self.parts.iter().filter_map(text).collect()
    }

    /// What was thought.
    pub(super) fn reasoning(&self) -> String {
        let text = |part: &Part| if let Part::Thought(text) = part { Some(text.clone()) } else { None };
        self.parts.iter().filter_map(text).collect()
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.parts.iter().filter_map(|part| if let Part::Call(call) = part { Some(call) } else { None })
    }

    /// The number among the calls of one that is this part.
    pub(super) fn number(&self, part: usize) -> usize {
        self.parts[..part].iter().filter(|part| matches!(part, Part::Call(_))).count()
    }

    /// Whether it ended before the model would have.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self.ending, Some(Ending::Limit | Ending::ContextFull))
    }

    /// Whether it ended in order that tools answer.
    pub(super) fn wants_tools(&self) -> bool {
        self.ending.is_some() && !self.is_cut() && self.calls().next().is_some()
    }

    /// Odds of tokens that brought no text.
    pub(super) fn rest_of_odds(&mut self) -> Vec<TokenOdds> {
        std::mem::take(&mut self.odds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(pieces: &[Piece]) -> Event {
        let odds = Some(TokenOdds { token: 7, chosen: -1.0, top: vec![] });
        Event::Token { token: 7, pieces: pieces.to_vec(), odds, usage: Usage::default() }
    }

    fn ended(ending: Ending) -> Event {
        Event::Ended { ending, stop: None, pieces: vec![], usage: Usage::default() }
    }

    #[test]
    fn parts_stand_in_their_order() {
        let mut answer = Answer::default();
        let [thought, more, said] =
            [Piece::Reasoning("Hm".into()), Piece::Reasoning("m.".into()), Piece::Answer("Ja.".into())];
        assert_eq!(answer.take(token(&[thought, more]))[0].text, "Hmm.");
        assert_eq!(answer.take(token(&[])), []);
        let news = answer.take(token(std::slice::from_ref(&said)));
        // Neither the thoughts' odds nor those of what stood behind them.
        assert_eq!((news[0].part, news[0].begins, news[0].odds.len()), (1, true, 1));
        let call = [Piece::Call("fly".into()), Piece::Arguments("{\"to\":".into())];
        let news = answer.take(token(&call));
        let told: Vec<_> = news.iter().map(|news| (news.part, news.begins, news.text.as_str())).collect();
        assert_eq!(told, [(2, true, ""), (2, false, "{\"to\":")]);
        assert!(answer.calls().next().unwrap().object().is_none());
        answer.take(token(&[Piece::Arguments("\"Kiel\"}".into()), Piece::Call("rest".into())]));
        answer.take(token(&[Piece::Arguments("{}".into())]));
        answer.take(token(&[said]));
        assert_eq!((answer.thoughts, answer.number(3), answer.parts.len()), (2, 1, 5));
        assert_eq!((answer.reasoning().as_str(), answer.text().as_str()), ("Hmm.", "Ja.Ja."));
        assert_eq!(answer.calls().next().unwrap().object().unwrap()["to"], "Kiel");
        assert!(!answer.wants_tools());
        answer.take(ended(Ending::EndOfText));
        assert!(answer.wants_tools() && !answer.is_cut());
        answer.take(ended(Ending::Limit));
        assert!(!answer.wants_tools() && answer.is_cut());
    }

    #[test]
    fn odds_wait_for_their_text() {
        let mut answer = Answer::default();
        assert_eq!(answer.take(token(&[])), []);
        assert_eq!(answer.take(token(&[Piece::Answer("ö".into())]))[0].odds.len(), 2);
        answer.take(token(&[]));
        assert_eq!(answer.rest_of_odds().len(), 1);
    }
}
