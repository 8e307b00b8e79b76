//! What happened to an example on its way into a row, in words for a person.

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
