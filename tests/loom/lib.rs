//! Threads of the engine in every order of events that they can have. The files are the engine's own, with loom's
//! primitives under them.
//!
//! Run by `cargo test --manifest-path tests/loom/Cargo.toml`.

#![cfg(test)]

mod os {
    pub(crate) mod pages {
        pub(crate) struct Pages;
    }
}

#[allow(dead_code, reason = "the file has more than is asked here")]
mod experts;
mod threads;

/// Runs `body` in every order of events in which a thread is interrupted at most twice where it could go on: faults need
/// no more, and without a bound there are more orders than anyone waits for.
fn in_every_order(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(body);
}
