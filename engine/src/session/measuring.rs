//! What stands in for a disk and a router, so that the expert store can be measured on any machine.

use super::{DeviceChoice, Options};
use crate::error::{Error, Result};
use crate::experts::Trace;
use crate::model::Model;
use std::sync::Arc;

/// Another machine's disk, another model's routing.
#[derive(Clone, Debug, Default)]
pub struct Measuring {
    /// Bytes per second that reads of experts are slowed down to, as if one disk served them one after the other.
    pub disk_rate: Option<f64>,
    /// Reads that leave no copy in the page cache, also where it has room.
    pub direct_reads: bool,
    /// Choices of experts by position, in the place of the router's.
    pub route: Option<Arc<Trace>>,
}

/// Lets the model follow the recording, if there is one.
///
/// # Errors
/// When the recording is not the model's, or what is wished besides needs the router.
pub(super) fn follow(model: &mut Model, options: &Options) -> Result<()> {
    let Some(trace) = &options.measuring.route else { return Ok(()) };
    if options.look_ahead > 0 {
        return Err(Error::request(
            "a recording does not say what a guess would have been: leave out --look-ahead",
        ));
    }
    if options.device != DeviceChoice::Cpu {
        return Err(Error::request("a recording is followed by the CPU only: leave out --device"));
    }
    model.follow(trace)
}

#[cfg(test)]
mod tests {
    use super::super::{Engine, ask_tests};
    use super::*;
    use crate::experts::TracedLayer;

    /// A recording of so many layers with experts of eight; every token chooses the same.
    fn recording(layers: usize, expert_count: usize, chosen: &[u32]) -> Trace {
        let layer = |layer| TracedLayer { layer, expert_count, expert_bytes: 1 };
        let tokens = vec![vec![chosen.to_vec(); layers]; 3];
        Trace { layers: (0..layers).map(layer).collect(), tokens, best: vec![] }
    }

    fn open(route: Trace, look_ahead: usize) -> Result<Engine> {
        let measuring = Measuring { route: Some(Arc::new(route)), direct_reads: true, disk_rate: Some(1e9) };
        ask_tests::engine(Options { measuring, look_ahead, threads: Some(1), ..Options::default() })
    }

    #[test]
    fn a_model_follows_a_recording() {
        let engine = open(recording(2, 8, &[5, 2, 7]), 0).unwrap();
        let mut session = engine.session().unwrap();
        session.extend(&[1, 2, 3, 4, 5]).unwrap();
        session.extend(&[6]).unwrap();
        for layer in engine.expert_statistics().unwrap().layers {
            assert_eq!(layer.uses, [0, 0, 6, 0, 0, 6, 0, 0], "the two strongest, beyond the end as well");
        }
    }

    #[test]
    fn a_recording_of_another_model_is_refused() {
        for (route, part) in [
            (recording(3, 8, &[0, 1]), "has 3 layers"),
            (Trace { tokens: vec![], ..recording(2, 8, &[0, 1]) }, "0 tokens"),
            (recording(2, 9, &[0, 1]), "2 of 9 experts"),
            (recording(2, 8, &[0]), "1 of 8 experts"),
        ] {
            let message = open(route, 0).err().unwrap().to_string();
            assert!(message.contains(part), "{message}");
        }
        let message = open(recording(2, 8, &[0, 1]), 1).err().unwrap().to_string();
        assert!(message.contains("leave out --look-ahead"), "{message}");
    }
}
