//! Divides a budget of bytes among the slots of all layers.
//!
//! Every layer gets the same number of slots, give or take one: the router asks each layer for as many experts.

use super::slots::SlotShape;
use super::{ExpertLayer, Layers, count_of};
use crate::simd::Isa;

/// Slots that belong to no layer, where the budget does not hold all experts: they keep reads going while a layer's
/// own slots are in use, and are enough to compute with no other.
const STAGING: usize = 4;

/// How many experts fit where.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) isa: Isa,
    /// Slots of each layer; 0 for dense ones.
    pub(super) quotas: Vec<usize>,
    /// Slots of [`Plan::largest_slot`] that any layer may use for a moment.
    pub(super) staging: usize,
    pub(super) shapes: Vec<Option<SlotShape>>,
    experts: usize,
    /// Whether reads leave no copy in the system's page cache, which could not hold all experts.
    pub past_cache: bool,
}

impl Plan {
    /// The largest equal shares that `budget` holds; `None` for no limit.
    pub(super) fn new(layers: &Layers, isa: Isa, budget: Option<u64>) -> Self {
        let shape = |layer: &Option<ExpertLayer>| layer.as_ref().map(SlotShape::of);
        let shapes: Vec<_> = layers.iter().map(shape).collect();
        let counts: Vec<usize> = layers.iter().map(count_of).collect();
        let experts = counts.iter().sum();
        let mut plan = Self { isa, quotas: counts.clone(), staging: 0, shapes, experts, past_cache: false };
        if let Some(budget) = budget
            && budget < plan.bytes()
        {
            plan.staging = STAGING;
            plan.quotas = plan.shares(&counts, budget.saturating_sub(plan.staging_bytes()));
        }
        plan
    }

    fn shares(&self, counts: &[usize], mut budget: u64) -> Vec<usize> {
        let mut quotas = vec![0; counts.len()];
        for round in 0..counts.iter().copied().max().unwrap_or(0) {
            for (layer, quota) in quotas.iter_mut().enumerate() {
                let bytes = self.slot_bytes(layer);
                if round < counts[layer] && bytes <= budget {
                    *quota += 1;
                    budget -= bytes;
                }
            }
        }
        quotas
    }

    fn slot_bytes(&self, layer: usize) -> u64 {
        self.shapes[layer].as_ref().map_or(0, |shape| shape.bytes() as u64)
    }

    /// The shape of the largest expert, whose slot any fits.
    pub(super) fn largest_slot(&self) -> SlotShape {
        self.shapes.iter().flatten().copied().max_by_key(SlotShape::len).unwrap_or_default()
    }

    fn staging_bytes(&self) -> u64 {
        (self.staging * self.largest_slot().bytes()) as u64
    }

    /// For which kernels experts are packed.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of all slots once they are filled.
    pub fn bytes(&self) -> u64 {
        let own = self.quotas.iter().enumerate().map(|(layer, &quota)| quota as u64 * self.slot_bytes(layer));
        own.sum::<u64>() + self.staging_bytes()
    }

    /// Slots of a layer; 0 for dense ones.
    pub fn quota(&self, layer: usize) -> usize {
        self.quotas[layer]
    }

    /// Slots that belong to no layer.
    pub fn staging(&self) -> usize {
        self.staging
    }

    /// Experts that fit at a time.
    pub fn slots(&self) -> usize {
        self.quotas.iter().sum()
    }

    /// Experts of the model.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Whether every expert has a slot.
    pub fn holds_all(&self) -> bool {
        self.slots() == self.experts
    }
}
