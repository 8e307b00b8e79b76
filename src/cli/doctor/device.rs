//! NVIDIA's cards, or why there is none that computes.

use moewe_engine::cuda::{Card, survey};
use moewe_engine::os::machine;
use serde::Serialize;

#[derive(Debug, Default, Serialize)]
pub(super) struct Gpu {
    /// As NVIDIA counts, where the system tells.
    pub(super) driver: Option<String>,
    /// The newest CUDA that the driver serves.
    pub(super) cuda: Option<String>,
    pub(super) cards: Vec<Device>,
    /// Why no card computes.
    pub(super) why_not: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) memory_bytes: u64,
    pub(super) compute_capability: String,
    pub(super) multiprocessors: u32,
    /// Whether the kernels run on it: they want capability 8.0.
    pub(super) is_served: bool,
}

pub(super) fn gpu() -> Gpu {
    let driver = machine::nvidia_driver();
    match survey() {
        Err(error) => Gpu { driver, cuda: None, cards: vec![], why_not: Some(error.to_string()) },
        Ok(survey) => {
            let cards: Vec<Device> = survey.cards.into_iter().map(device).collect();
            let why_not = match cards.iter().any(|card| card.is_served) {
                true => None,
                false if cards.is_empty() => Some("the driver finds no card".to_owned()),
                false => Some("the kernels want compute capability 8.0 or later".to_owned()),
            };
            Gpu { driver, cuda: Some(format!("{}.{}", survey.cuda.0, survey.cuda.1)), cards, why_not }
        }
    }
}

fn device(card: Card) -> Device {
    Device {
        name: card.name,
        memory_bytes: card.memory,
        compute_capability: format!("{}.{}", card.capability.0, card.capability.1),
        multiprocessors: card.multiprocessors,
        is_served: card.is_served,
    }
}
