//! What anybody may see of the work: for each place whose turn it is and how far that has come, never what is said.

use super::conversation::Conversation;
use moewe_engine::sampler::Sampling;
use std::sync::{Mutex, PoisonError};

/// One of the places for conversations that are computed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    /// The conversation that has it, or had it last; the first is 1.
    pub(crate) task: u64,
    pub(crate) is_processing: bool,
    /// Tokens of its prompt, and of its answer so far.
    pub(crate) prompt: usize,
    pub(crate) told: usize,
    /// Most tokens of the answer.
    pub(crate) limit: Option<usize>,
    pub(crate) sampling: Option<Sampling>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Board(Mutex<Vec<Slot>>);

impl Board {
    pub(super) fn new(places: usize) -> Self {
        Self(Mutex::new(vec![Slot::default(); places]))
    }

    pub(super) fn show(&self, running: &[Conversation]) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter_mut().for_each(|slot| slot.is_processing = false);
        for conversation in running {
            let Some(slot) = slots.get_mut(conversation.sequence()) else { continue };
            let usage = conversation.usage();
            if slot.task != conversation.id() {
                slot.task = conversation.id();
                (slot.limit, slot.sampling) = (conversation.limit(), Some(conversation.sampling().clone()));
            }
            slot.is_processing = true;
            (slot.prompt, slot.told) = (usage.prompt_tokens, usage.completion_tokens);
        }
    }

    pub(super) fn slots(&self) -> Vec<Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
