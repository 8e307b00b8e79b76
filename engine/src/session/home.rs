//! Where a loaded model's weights are at home: on a card or in memory, and which files experts are read from; and what a
//! benchmark puts in the routers' place.
//!
//! How much goes where is planned in `memory.rs`.

use super::{CardPlan, DeviceChoice, MemoryPlan, Options};
use crate::cuda::Device;
use crate::error::{Error, Result};
use crate::experts::{ExpertStore, ReadFrom};
use crate::gguf::Gguf;
use crate::model::{Cuda, Model, Setup};
use crate::simd::Isa;

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

/// Where experts are read from; only those that have to be read are looked for.
pub(super) fn read_from(store: &ExpertStore, gguf: &Gguf, isa: Isa, options: &Options) -> ReadFrom {
    let side = if store.is_empty() { None } else { store.side_file(gguf, isa) };
    ReadFrom { side, rate: options.measuring.disk_rate }
}

/// Brings a model onto a card. Where not all experts have a place there, the others wait in slots of the program's memory.
pub(super) fn on_card(
    (gguf, model): (&Gguf, &mut Model),
    options: &Options,
    memory: &mut MemoryPlan,
    number: usize,
) -> Result<Cuda> {
    Cuda::supports(model)?;
    let device = Device::open(number)?;
    let (threads, isa) = options.hardware();
    let room = (memory.context_length, memory.cache + memory.states);
    let plan = CardPlan::new(model, options, isa, room, device.memory()?.0)?;
    let host = if plan.experts.holds_all() {
        model.weights.experts.plan(isa, Some(0))
    } else {
        memory.experts.clone()
    };
    let (context_length, missing) = (memory.context_length, options.missing);
    let setup = Setup { context_length, isa, experts: &plan.experts, missing, threads };
    let cuda = Cuda::new(device, model, &setup)?;
    let from = read_from(&model.weights.experts, gguf, host.isa(), options);
    model.weights.experts.provide(host.clone(), 0, from)?;
    (memory.experts, memory.card) = (host, Some(plan));
    Ok(cuda)
}

#[cfg(test)]
mod tests {
    use super::super::{Engine, Measuring, ask_tests};
    use super::*;
    use crate::experts::{Trace, TracedLayer};
    use std::sync::Arc;

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
