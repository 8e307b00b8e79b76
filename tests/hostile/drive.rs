//! Runs a case per seed, catches what panics, counts how far the others came.
//!
//! A case that aborts the process cannot be caught; its seed is then the last line of
//! `target/tmp/hostile-NAME.seed`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// How far a file got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An error before anything could be used.
    Refused,
    /// The directory of the file was accepted.
    Opened,
    /// The model computed a token.
    Stepped,
}

/// Numbers of outcomes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) cases: usize,
    pub(crate) opened: usize, // those that stepped included
    pub(crate) stepped: usize,
}

/// Cases to run: `share` percent of `MOEWE_HOSTILE_CASES`, which is 20,000 unless set.
pub(crate) fn cases(share: usize) -> usize {
    let all =
        std::env::var("MOEWE_HOSTILE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000usize);
    (all * share).div_ceil(100)
}

/// Runs `case` with the seeds 0 to `count`, or with `MOEWE_HOSTILE_SEED` alone. Panics with the seeds that did.
pub(crate) fn drive(name: &str, count: usize, mut case: impl FnMut(u64) -> Outcome) -> Counts {
    let only = std::env::var("MOEWE_HOSTILE_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = only.map_or(0..count as u64, |seed| seed..seed + 1);
    let note = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}.seed"));
    let (mut counts, mut failures) = (Counts::default(), Vec::new());
    for seed in seeds {
        let _ = fs::write(&note, seed.to_string());
        counts.cases += 1;
        match catch_unwind(AssertUnwindSafe(|| case(seed))) {
            Ok(outcome) => {
                counts.opened += usize::from(outcome != Outcome::Refused);
                counts.stepped += usize::from(outcome == Outcome::Stepped);
            }
            Err(_) => failures.push(seed),
        }
    }
    let _ = fs::remove_file(note);
    assert!(failures.is_empty(), "{name}: {} of {count} seeds panicked: {failures:?}", failures.len());
    counts
}

impl Counts {
    /// Fails when fewer than `opened` and `stepped` percent came that far: the mutations would test too little.
    pub(crate) fn assert_percent(self, opened: usize, stepped: usize) {
        assert!(self.opened * 100 >= self.cases * opened, "fewer than {opened} % were opened: {self:?}");
        assert!(self.stepped * 100 >= self.cases * stepped, "fewer than {stepped} % made a step: {self:?}");
    }
}
