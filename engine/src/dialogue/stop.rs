//! Stop strings: an answer ends before the first of them, wherever the pieces of its text are cut.

use super::begun;

/// Looks for the texts that end an answer.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    texts: Vec<String>, // none of them empty
    held: String,       // may be the beginning of one
    met: Option<usize>,
}

impl Stops {
    /// An answer ends before the first of `texts`; empty ones end nothing.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        Self { texts: texts.into_iter().filter(|text| !text.is_empty()).collect(), ..Self::default() }
    }

    /// More of the answer; returns what is certainly before any stop string.
    pub fn push(&mut self, text: &str) -> String {
        if self.met.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        // Of several that begin at one place the longest is named.
        let found =
            self.texts.iter().enumerate().filter_map(|(i, text)| {
                self.held.find(&**text).map(|at| (at, std::cmp::Reverse(text.len()), i))
            });
        match found.min() {
            Some((at, _, i)) => {
                self.met = Some(i);
                self.held.truncate(at);
                std::mem::take(&mut self.held)
            }
            None => {
                let texts: Vec<&str> = self.texts.iter().map(|text| &**text).collect();
                let clear = self.held.len() - begun(&self.held, &texts);
                self.held.drain(..clear).collect()
            }
        }
    }

    /// The end of the answer: what was held back is no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string that ended the answer.
    pub fn met(&self) -> Option<&str> {
        self.met.map(|i| &*self.texts[i])
    }
}
