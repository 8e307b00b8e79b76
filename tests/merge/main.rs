//! Mixtures of dense models. All that is asked of `moewe merge` is one program, since each links the whole converter.

#[path = "../support/command.rs"]
mod command;
#[path = "../support/exact.rs"]
mod exact;
#[path = "../support/merging.rs"]
mod merging;

mod ends;
mod flags;
mod kept;
mod limits;
mod mergekit;
