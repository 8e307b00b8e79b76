//! Conversations side by side in rows of the context: best fit decreasing.
//!
//! The longest goes first, each into the row that it leaves the least room in. Rows are shorter than the context, never
//! longer; a reader of rows keeps the conversations of a row apart.

use std::collections::BTreeMap;

/// What is trained in one go: conversations one after the other. Positions begin at 0 in each, and none sees another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Ids.
    pub tokens: Vec<u32>,
    /// Per token, whether it is a label: something that the tokens before it are to predict. The first token of a
    /// conversation never is.
    pub trained: Vec<bool>,
    /// Lengths of the conversations; their sum is the number of tokens.
    pub segments: Vec<usize>,
}

impl Row {
    /// A row of one conversation.
    pub(super) fn single(tokens: Vec<u32>, trained: Vec<bool>) -> Self {
        Self { segments: vec![tokens.len()], tokens, trained }
    }

    /// Tokens that are labels.
    pub fn labels(&self) -> usize {
        self.trained.iter().filter(|is_trained| **is_trained).count()
    }

    /// Gives back what is allocated beyond the tokens: rows stay until the end of training.
    pub(super) fn shrink(&mut self) {
        self.tokens.shrink_to_fit();
        self.trained.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    fn append(&mut self, other: Self) {
        self.tokens.extend(other.tokens);
        self.trained.extend(other.trained);
        self.segments.extend(other.segments);
    }
}

/// Puts rows of at most `context` tokens together into as few as that finds.
pub(super) fn pack(mut singles: Vec<Row>, context: usize) -> Vec<Row> {
    singles.sort_by_key(|row| std::cmp::Reverse(row.tokens.len())); // equal ones stay in their order
    let mut rows: Vec<Row> = Vec::new();
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new(); // rows by the room in them
    for single in singles {
        let length = single.tokens.len();
        let room = open.range(length..).next().map(|(room, _)| *room);
        let found = room.and_then(|room| {
            let rows = open.get_mut(&room)?;
            let row = rows.pop()?;
            if rows.is_empty() {
                open.remove(&room);
            }
            Some((row, room))
        });
        let (row, room) = match found {
            Some((row, room)) => {
                rows[row].append(single);
                (row, room)
            }
            None => {
                rows.push(single);
                (rows.len() - 1, context)
            }
        };
        if let Some(left) = room.checked_sub(length).filter(|left| *left > 0) {
            open.entry(left).or_default().push(row);
        }
    }
    rows.iter_mut().for_each(Row::shrink);
    rows
}
