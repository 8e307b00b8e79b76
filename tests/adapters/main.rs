//! Adapters that peft made: their numbers, and their ends.

#[path = "../support/command.rs"]
mod command;
#[path = "../support/exact.rs"]
mod exact;
#[path = "../support/peft.rs"]
mod peft;

mod ends;
mod numbers;
