//! What happened to an example on its way into a row, in words for a person.

use super::mask::Masked;

/// Something that is counted and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Note {
    /// Left out: nothing in it is to be trained.
    NothingTrained,
    /// Left out: cut to the context, nothing trained is left.
    LongPrompt,
    /// Cut after the last answer that fits.
    LaterTurns,
    /// Cut within the first answer.
    LongAnswer,
    /// Only the last answer is trained.
    LastOnly,
    /// The last answer has no end token.
    Endless,
    /// A message spells a control token.
    SpellsControl,
}

impl Note {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 7] = [
        Self::NothingTrained,
        Self::LongPrompt,
        Self::LaterTurns,
        Self::LongAnswer,
        Self::LastOnly,
        Self::Endless,
        Self::SpellsControl,
    ];

    /// Whether the example is left out.
    pub fn is_left_out(self) -> bool {
        matches!(self, Self::NothingTrained | Self::LongPrompt)
    }

    /// What it means, said of the example or examples.
    pub fn text(self) -> &'static str {
        match self {
            Self::NothingTrained => "left out: nothing in it is to be trained",
            Self::LongPrompt => "left out: the first answer begins beyond --context",
            Self::LaterTurns => "cut after the last answer that fits into --context",
            Self::LongAnswer => "cut within the first answer at --context, so without its end",
            Self::LastOnly => {
                "trained on the last answer only: the template writes earlier ones otherwise once another follows"
            }
            Self::Endless => {
                "without an end token after the last answer: a model does not learn there to stop"
            }
            Self::SpellsControl => "with control tokens spelled in messages, which are read as text",
        }
    }
}

impl Masked {
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
