//! Experts that are not on the card: brought there, or computed by the processor out of the store's slots, which have the same
//! weights in the same order, so the same bits come out. Measured rates decide; what is chosen changes the speed alone.

use super::super::super::moe::Routing;
use super::super::cpu::Cpu;
use super::super::{Backend, ExpertStep, Hidden, HostBuffer};
use super::experts::stacks;
use super::{Cuda, lock};
use crate::cuda::ChoicesAt;
use crate::error::{Error, Result};
use crate::experts::{ExpertLayer, ExpertStore, Group, Stack, Turn};
use crate::kernels::{Layout, PANEL};
use crate::simd::Isa;
use std::str::FromStr;
use std::sync::MutexGuard;
use std::time::Instant;

/// Formats whose products in panels have the bits of the card's.
const SAME_BITS: [&str; 9] = ["Q4_0", "Q8_0", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"];
/// Rows of a step up to which the processor is asked: with more, each expert meets many, which a card does far better.
const FEW_ROWS: usize = 16;
/// Weight of what was measured last.
const SHARE: f64 = 0.1;

/// Who computes experts that are not on the card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Whoever is done sooner by what was measured, for steps of few rows; one expert of each layer moves to the card all
    /// the same.
    #[default]
    Measured,
    /// The card, which they are copied to.
    Copied,
    /// The processor, wherever it has the same bits.
    Computed,
}

impl FromStr for Missing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Measured),
            "copy" => Ok(Self::Copied),
            "cpu" => Ok(Self::Computed),
            _ => Err(Error::request(format!("\"{name}\" is none of auto, copy and cpu"))),
        }
    }
}

/// The processor's side.
pub(super) struct Host {
    cpu: Cpu,
    missing: Missing,
    normed: HostBuffer,
    hidden: Hidden<HostBuffer>,
    slots: Vec<usize>, // that it has computed
    copy: Option<f64>, // seconds for an expert
    compute: Option<f64>,
}

impl Host {
    pub(super) fn new(isa: Isa, threads: usize, missing: Missing) -> Self {
        // Tiles of many inputs round them to other numbers than the card does.
        let isa = if isa == Isa::Amx { Isa::Avx512Vnni } else { isa };
        let cpu = Cpu::new(isa, threads);
        let [gate, up, out] = [(); 3].map(|()| cpu.buffer(0));
        let normed = cpu.buffer(0);
        let hidden = Hidden { gate, up, out };
        Self { cpu, missing, normed, hidden, slots: vec![], copy: None, compute: None }
    }

    /// How many of a group's experts are brought to the card.
    fn to_copy(&self, group: usize, is_first: bool) -> usize {
        let risen = usize::from(is_first).min(group);
        match (self.missing, self.copy, self.compute) {
            (Missing::Copied, ..) | (Missing::Measured, None, _) => group,
            (Missing::Computed, ..) => 0,
            (Missing::Measured, Some(copy), Some(compute)) if copy < compute => group,
            (Missing::Measured, ..) => risen,
        }
    }
}

/// A moving average.
fn learn(rate: &mut Option<f64>, start: Instant, experts: usize) {
    let found = start.elapsed().as_secs_f64() / experts as f64;
    *rate = Some(rate.map_or(found, |rate| rate + SHARE * (found - rate)));
}

/// A layer's turn: experts that have to be brought or computed, on their way from the store.
pub struct DeviceTurn<'s>(pub(super) Option<Away<'s>>);

/// What is not on the card.
pub(super) struct Away<'s> {
    pub(super) turn: Turn<'s>,
    /// Which rows go to which of these experts.
    pub(super) routing: Routing,
}

impl Cuda {
    /// Whether the processor computes a layer's experts with the card's bits.
    fn is_alike(&self, layer: &ExpertLayer) -> bool {
        let is_alike = |stack: &Stack| {
            SAME_BITS.contains(&stack.format.name)
                && Layout::of(self.isa, stack.format) == Layout::Panels
                && stack.rows.is_multiple_of(PANEL)
                && stack.low_ranks.is_empty()
        };
        stacks(layer).into_iter().flatten().all(is_alike)
    }

    /// The processor's side, ready for the step's rows where it may be asked.
    pub(super) fn host_for(
        &self,
        step: &ExpertStep<'_, Self>,
        is_observed: bool,
    ) -> Result<Option<MutexGuard<'_, Host>>> {
        let Some(host) = &self.host else { return Ok(None) };
        let mut host = lock(host);
        let rows = step.routing.rows;
        let is_asked = host.missing == Missing::Computed || rows <= FEW_ROWS;
        if is_observed || !is_asked || !self.is_alike(step.store.layer(step.layer)) {
            return Ok(None);
        }
        let Host { normed, slots, .. } = &mut *host;
        slots.clear();
        normed.resize(rows, step.normed.width());
        step.normed.copy_to(self.device(), normed.values_mut())?;
        Ok(Some(host))
    }

    /// Computes what is missing as it comes from the store.
    pub(super) fn compute_missing(
        &self,
        away: Away<'_>,
        mut host: Option<MutexGuard<'_, Host>>,
        step: &mut ExpertStep<'_, Self>,
        choices: ChoicesAt,
    ) -> Result<()> {
        let Away { mut turn, routing } = away;
        let mut is_first = true;
        while let Some(group) = turn.next_group()? {
            let experts = group.experts();
            let copied = host.as_ref().map_or(experts.len(), |host| host.to_copy(experts.len(), is_first));
            is_first = false;
            let (to_copy, to_compute) = experts.split_at(copied);
            self.bring((&group, to_copy), host.as_deref_mut(), step, choices)?;
            if let Some(host) = host.as_deref_mut().filter(|_| !to_compute.is_empty()) {
                host.compute(&group, to_compute, &routing, (step.store, step.layer, step.experts));
            }
            // The store uses the group's memory again; copies of it are done.
        }
        lock(&self.bank).end(self.device(), step.layer)?;
        if let Some(host) = host {
            let rows: Vec<_> = host.slots.iter().map(|&slot| (slot, host.hidden.out.row(slot))).collect();
            step.hidden.out.write_rows(self.device(), &rows)?;
        }
        Ok(())
    }

    /// Copies some of a group to the card and has it compute them.
    fn bring(
        &self,
        (group, experts): (&Group<'_>, &[u32]),
        mut host: Option<&mut Host>,
        step: &mut ExpertStep<'_, Self>,
        choices: ChoicesAt,
    ) -> Result<()> {
        let most = lock(&self.bank).visitors();
        for some in experts.chunks(most) {
            let about = (step.layer, step.store.layer(step.layer));
            if host.is_some() {
                // What it does already is not the copy's time.
                self.device().wait()?;
            }
            let start = Instant::now();
            let addresses = lock(&self.bank).bring(self.device(), about, group, some)?;
            if let Some(host) = host.as_deref_mut() {
                learn(&mut host.copy, start, some.len());
            }
            self.compute_experts(step, (choices, addresses))?;
        }
        Ok(())
    }
}

impl Host {
    /// Computes some of a group for the rows that it was made ready for.
    fn compute(
        &mut self,
        group: &Group<'_>,
        experts: &[u32],
        routing: &Routing,
        (store, layer, shape): (&ExpertStore, usize, &super::Shape),
    ) {
        let start = Instant::now();
        let (ahead, mut added) = (Routing::default(), self.cpu.buffer(0));
        let Self { cpu, normed, hidden, .. } = self;
        let (normed, added) = (&mut *normed, &mut added);
        let mut step =
            ExpertStep { store, layer, experts: shape, routing, ahead: &ahead, normed, hidden, added };
        cpu.begin_experts(store.layer(layer), &mut step);
        cpu.hidden(group, experts, &mut step);
        cpu.down(group, experts, &mut step);
        for &expert in experts {
            self.slots.extend(routing.dispatch().picks(expert).iter().map(|pick| pick.output as usize));
        }
        learn(&mut self.compute, start, experts.len());
    }
}
