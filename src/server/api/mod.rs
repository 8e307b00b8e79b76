//! What clients speak: a dialect is a folder that maps its JSON to an [`Ask`](super::ask::Ask) and events to its JSON.

pub(super) mod openai;
