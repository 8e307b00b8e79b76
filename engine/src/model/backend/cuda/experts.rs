//! Routed experts on the device: which of them are in its memory, and a layer's turn to compute with them.
//!
//! Where all fit, they are copied at load and a step never waits for the program. Otherwise the program looks at each
//! layer's choices, brings what is missing from the store into slots of the layer, or where it has none left into those
//! that belong to nobody, and computes as it comes. Sums are added up in the order of choices at the end, so results do not
//! depend on what was there.

use super::super::super::observe::{Observe, Site};
use super::super::{Backend, ExpertStep};
use super::Cuda;
use crate::cuda::{ChoicesAt, Device, MatrixAt, Memory, Rows};
use crate::error::Result;
use crate::experts::{ExpertLayer, ExpertStore, Group, Plan, Stack};
use crate::gguf::TensorName;
use crate::kernels::{ExpertMatrices, Layout, MatrixRef};
use crate::simd::Isa;
use bytemuck::cast_slice;

/// Matrices of an expert: gate, up, down.
pub(super) const MATRICES: usize = 3;
/// Matrices begin at multiples of this: what one load of a warp reaches.
const ALIGNMENT: usize = 256;

/// The experts of all layers.
pub(super) struct Bank {
    layers: Vec<Option<Shelf>>,
    visitors: Vec<Memory>, // slots that belong to no layer
    turn: u64,
}

/// The slots of a layer.
struct Shelf {
    starts: [usize; MATRICES], // of each matrix in a slot
    bytes: usize,
    quota: usize,
    slots: Vec<Memory>,
    held: Vec<Option<usize>>, // (experts): slot
    owners: Vec<(u32, u64)>,  // (slots): expert, and the turn that used it last
    addresses: Vec<u64>,      // (experts, 3), 0 for what is not here
    home: Memory,             // of the addresses
    arrived: Memory,          // the same of what a turn has just brought
}

impl Shelf {
    fn new(device: &Device, layer: &ExpertLayer, quota: usize) -> Result<Self> {
        let lengths = stacks(layer).map(|stack| stack.map_or(0, Stack::expert_bytes));
        let room = lengths.map(|bytes| bytes.next_multiple_of(ALIGNMENT));
        let count = layer.expert_count();
        let addresses = vec![0u64; count * MATRICES];
        let home = device.upload(cast_slice(&addresses))?;
        let arrived = device.upload(cast_slice(&addresses))?;
        let starts = [0, room[0], room[0] + room[1]];
        Ok(Self {
            starts,
            bytes: room.iter().sum(),
            quota,
            slots: vec![],
            held: vec![None; count],
            owners: vec![],
            addresses,
            home,
            arrived,
        })
    }

    fn holds_all(&self) -> bool {
        self.held.iter().all(Option::is_some)
    }

    /// A slot for an expert: a new one, or that which no expert of this turn is in and which was used the longest ago.
    fn slot_for(&mut self, device: &Device, expert: u32, turn: u64) -> Result<Option<usize>> {
        if self.slots.len() < self.quota {
            self.slots.push(device.allocate(self.bytes)?);
            self.owners.push((expert, turn));
            return Ok(Some(self.slots.len() - 1));
        }
        let idle = self.owners.iter().enumerate().filter(|(_, owner)| owner.1 < turn);
        let Some((slot, _)) = idle.min_by_key(|(_, owner)| owner.1) else { return Ok(None) };
        let old = self.owners[slot].0 as usize;
        self.held[old] = None;
        self.addresses[old * MATRICES..][..MATRICES].fill(0);
        self.owners[slot] = (expert, turn);
        Ok(Some(slot))
    }

    fn places(&self, base: u64, layer: &ExpertLayer) -> [u64; MATRICES] {
        let mut places = self.starts.map(|start| base + start as u64);
        if layer.gate.is_none() {
            places[0] = 0;
        }
        places
    }

    fn keep(&mut self, expert: u32, slot: usize, layer: &ExpertLayer) {
        self.held[expert as usize] = Some(slot);
        let places = self.places(self.slots[slot].address(), layer);
        self.addresses[expert as usize * MATRICES..][..MATRICES].copy_from_slice(&places);
    }
}

/// The matrices of a layer's experts in the order of a table of addresses.
pub(super) fn stacks(layer: &ExpertLayer) -> [Option<&Stack>; MATRICES] {
    [layer.gate.as_ref(), Some(&layer.up), Some(&layer.down)]
}

impl Bank {
    /// Slots as a plan divides them; all experts are copied where all have slots.
    ///
    /// # Errors
    /// When the device has no room.
    pub(super) fn new(
        device: &Device,
        store: &ExpertStore,
        layers: usize,
        plan: &Plan,
        isa: Isa,
    ) -> Result<Self> {
        let mut bank = Self { layers: vec![], visitors: vec![], turn: 0 };
        let mut largest = 0;
        for number in 0..layers {
            let shelf = match store.has(number) {
                true => Some(Shelf::new(device, store.layer(number), plan.quota(number))?),
                false => None,
            };
            largest = shelf.as_ref().map_or(largest, |shelf| largest.max(shelf.bytes));
            bank.layers.push(shelf);
        }
        if plan.holds_all() {
            bank.fill(device, store, isa)?;
        } else {
            bank.visitors = (0..plan.staging()).map(|_| device.allocate(largest)).collect::<Result<_>>()?;
        }
        Ok(bank)
    }

    fn fill(&mut self, device: &Device, store: &ExpertStore, isa: Isa) -> Result<()> {
        let mut packed = vec![];
        for (number, shelf) in self.layers.iter_mut().enumerate() {
            let Some(shelf) = shelf else { continue };
            let layer = store.layer(number);
            for expert in 0..layer.expert_count() as u32 {
                let slot = shelf.slot_for(device, expert, 0)?.expect("every expert has a slot");
                let places = shelf.places(shelf.slots[slot].address(), layer);
                for (stack, place) in stacks(layer).into_iter().zip(places) {
                    let Some(stack) = stack else { continue };
                    pack(stack.matrix(expert), isa, &mut packed);
                    device.copy_now(place, &packed)?;
                }
                shelf.keep(expert, slot, layer);
            }
            device.copy_now(shelf.home.address(), cast_slice(&shelf.addresses))?;
        }
        Ok(())
    }

    fn shelf(&mut self, layer: usize) -> &mut Shelf {
        self.layers[layer].as_mut().expect("an expert layer")
    }

    /// Whether a layer's experts are all here.
    pub(super) fn holds_all(&self, layer: usize) -> bool {
        self.layers[layer].as_ref().is_some_and(Shelf::holds_all)
    }

    /// Whether those of all layers are, so that a step never asks.
    pub(super) fn holds_everything(&self) -> bool {
        self.layers.iter().flatten().all(Shelf::holds_all)
    }

    /// Begins a turn with these experts; tells which are missing.
    pub(super) fn begin(&mut self, layer: usize, wanted: &[u32]) -> Vec<u32> {
        self.turn += 1;
        let turn = self.turn;
        let shelf = self.shelf(layer);
        for &expert in wanted {
            if let Some(slot) = shelf.held[expert as usize] {
                shelf.owners[slot].1 = turn;
            }
        }
        wanted.iter().copied().filter(|&expert| shelf.held[expert as usize].is_none()).collect()
    }

    /// Addresses of the experts that are here, as the device has them.
    pub(super) fn addresses(&self, layer: usize) -> u64 {
        self.layers[layer].as_ref().map_or(0, |shelf| shelf.home.address())
    }

    /// Most experts that [`Bank::bring`] takes at once.
    pub(super) fn visitors(&self) -> usize {
        self.visitors.len().max(1)
    }

    /// Copies experts of a group to the device; returns addresses of these alone. What used the places before has been
    /// started before.
    ///
    /// # Errors
    /// When the device has no room, or the driver refuses.
    pub(super) fn bring(
        &mut self,
        device: &Device,
        (layer, about): (usize, &ExpertLayer),
        group: &Group<'_>,
        experts: &[u32],
    ) -> Result<u64> {
        let turn = self.turn;
        let shelf = self.layers[layer].as_mut().expect("an expert layer");
        let mut arrived = vec![0u64; shelf.addresses.len()];
        let (gate, up, down) = (group.gate(), group.up(), group.down());
        for (number, &expert) in experts.iter().enumerate() {
            let slot = shelf.slot_for(device, expert, turn)?;
            let base =
                slot.map_or_else(|| self.visitors[number].address(), |slot| shelf.slots[slot].address());
            let places = shelf.places(base, about);
            for (part, place) in [gate.as_ref(), Some(&up), Some(&down)].into_iter().zip(places) {
                if let Some(part) = part {
                    device.copy_now(place, part.matrix(expert).bytes)?;
                }
            }
            arrived[expert as usize * MATRICES..][..MATRICES].copy_from_slice(&places);
            if let Some(slot) = slot {
                shelf.keep(expert, slot, about);
            }
        }
        device.copy_now(shelf.arrived.address(), cast_slice(&arrived))?;
        Ok(shelf.arrived.address())
    }

    /// Ends a turn that brought experts.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn end(&mut self, device: &Device, layer: usize) -> Result<()> {
        let shelf = self.shelf(layer);
        device.copy_now(shelf.home.address(), cast_slice(&shelf.addresses))
    }
}

/// A matrix of every expert, for kernels: format and shape, which of the three it is, and where the biases are.
type Stacked = (MatrixAt, usize, u64);

/// Gate, up and down of a layer's experts.
pub(super) fn matrices(
    layer: &ExpertLayer,
    isa: Isa,
    device: &Device,
) -> Result<(Option<Stacked>, Stacked, Stacked)> {
    let stacked = |which: usize, stack: &Stack| {
        let bias = stack.bias.as_ref().map_or(Ok(0), |bias| bias.on(device))?;
        let is_panels = Layout::of(isa, stack.format) == Layout::Panels;
        let at = MatrixAt { format: stack.format, rows: stack.rows, cols: stack.cols, is_panels, bytes: 0 };
        Ok((at, which, bias))
    };
    let gate = layer.gate.as_ref().map(|gate| stacked(0, gate)).transpose()?;
    Ok((gate, stacked(1, &layer.up)?, stacked(2, &layer.down)?))
}

/// A matrix as the kernels want it.
pub(super) fn pack(matrix: MatrixRef<'_>, isa: Isa, out: &mut Vec<u8>) {
    out.resize(matrix.bytes.len(), 0);
    Layout::of(isa, matrix.format).pack(matrix, out);
}

impl Cuda {
    /// The experts of a group of slots: gate, up, activation, down.
    pub(super) fn compute_experts(
        &self,
        step: &mut ExpertStep<'_, Self>,
        here: (ChoicesAt, u64),
    ) -> Result<()> {
        let stacks = step.store.layer(step.layer);
        let (gate, up, down) = matrices(stacks, self.isa, self.device())?;
        let ((choices, addresses), hidden) = (here, &mut *step.hidden);
        if let (Some(gate), Some(stack)) = (gate, &stacks.gate) {
            self.kernels.multiply_experts(gate, choices, addresses, step.normed, &mut hidden.gate);
            self.add_expert_adapters((stack, 0), here, step.normed, &mut hidden.gate);
        }
        self.kernels.multiply_experts(up, choices, addresses, step.normed, &mut hidden.up);
        self.add_expert_adapters((&stacks.up, 1), here, step.normed, &mut hidden.up);
        let gate = gate.map(|_| &hidden.gate);
        self.kernels.activate_slots(step.experts.activation, gate, &mut hidden.up, choices, addresses);
        self.kernels.multiply_experts(down, choices, addresses, &mut hidden.up, &mut hidden.out);
        self.add_expert_adapters((&stacks.down, 2), here, &mut hidden.up, &mut hidden.out);
        Ok(())
    }

    pub(super) fn size_slots(&self, step: &mut ExpertStep<'_, Self>) {
        let stacks = step.store.layer(step.layer);
        let slots = step.routing.rows * step.routing.used;
        let length = step.experts.length;
        if stacks.gate.is_some() {
            self.kernels.resize(&mut step.hidden.gate, slots, length);
        }
        self.kernels.resize(&mut step.hidden.up, slots, length);
        self.kernels.resize(&mut step.hidden.out, slots, stacks.down.rows);
    }

    pub(super) fn show_experts<O: Observe>(
        &self,
        step: &ExpertStep<'_, Self>,
        observe: &mut O,
    ) -> Result<()> {
        let names = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
            .map(|part| TensorName::in_layer(step.layer, part).to_string());
        let routing = self.host_routing(step.routing);
        let fetch = |rows: &Rows| {
            let mut values = vec![0f32; rows.rows() * rows.width()];
            rows.copy_to(self.device(), &mut values).map(|()| (values, rows.width()))
        };
        let (normed, hidden) = (fetch(step.normed)?, fetch(&step.hidden.up)?);
        let mut rows = vec![];
        for &expert in routing.dispatch().active() {
            for (tensor, (values, width), slots) in
                [(&names[0], &normed, false), (&names[1], &normed, false), (&names[2], &hidden, true)]
            {
                rows.clear();
                for pick in routing.dispatch().picks(expert) {
                    let row = if slots { pick.output } else { pick.input } as usize;
                    rows.extend_from_slice(&values[row * width..][..*width]);
                }
                observe.matmul_input(Site { tensor, expert: Some(expert) }, &rows, *width);
            }
        }
        Ok(())
    }
}
