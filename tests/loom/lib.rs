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
