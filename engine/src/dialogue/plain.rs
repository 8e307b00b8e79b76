//! Models that say what they say: all text is the answer.

use super::{Family, Offer, Piece, Split, Stage, Trial};
use std::sync::Arc;

pub(super) const NAME: &str = "plain";

/// No thoughts to tell apart.
#[derive(Debug)]
pub(super) struct Plain;

pub(super) fn detect(_: &Trial) -> Option<Arc<dyn Family>> {
    Some(Arc::new(Plain))
}

impl Family for Plain {
    fn name(&self) -> &'static str {
        NAME
    }

    fn splitter(&self, _: &str, _: Option<&Arc<Offer>>) -> Box<dyn Split> {
        Box::new(Whole)
    }

    fn mark<'t>(&'t self, _: &'t str) -> Option<&'t str> {
        None
    }
}

struct Whole;

impl Split for Whole {
    fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            pieces.push(Piece::Answer(text.to_owned()));
        }
    }

    fn stage(&self) -> Stage<'_> {
        Stage::Answer
    }

    fn finish(&mut self, _: &mut Vec<Piece>) {}
}
