//! Conversations for fine-tuning: from JSONL to rows of tokens of which the answers are labels.
//!
//! Lines become examples (`reader`, `kinds`), a template and a tokenizer make text and tokens of them ([`Wording`]), of
//! which some are trained (`mask`); what fits stands side by side in rows (`pack`). [`prepare()`] does all of it,
//! [`show()`] lets a person see what became of the first examples.

mod example;
mod kinds;
mod vocabulary;
mod template;
mod mask;
mod note;
mod pack;
mod wording;
mod reader;
mod prepare;
mod show;
#[cfg(test)]
mod tests;

pub use kinds::{KINDS, Kind};
pub use note::Note;
pub use pack::Row;
pub use prepare::{ChatRows, Counts, Settings, prepare};
pub use show::show;
pub use template::Markers;
pub use vocabulary::Vocabulary;
pub use wording::Wording;
