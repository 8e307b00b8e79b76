//! What another way of choosing who leaves would have hit: a recorded routing played through a simulated bank.
//!
//! As in the bank, a layer's experts of a token come all at once: those that are there are hits, then the others take
//! slots. The bank itself does [`Policy::LayerFadingLfu`]; this is how that was decided.

use super::frequency::Frequency;
use super::trace::Trace;

/// Who leaves for a missing expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Layers have equal shares; of the layer's experts the least recently used.
    LayerLru,
    /// Layers have equal shares; of the layer's experts the least often used so far.
    LayerLfu,
    /// The same with counts that fade.
    LayerFadingLfu,
    /// One pool; the least recently used of all.
    GlobalLru,
    /// The same, but no layer falls below the experts of one token.
    GlobalLruFloor,
    /// One pool; first who was passed over when its layer was last computed, the longest ago; then who was just used,
    /// since its layer comes again last (SpecMD, arXiv 2602.03921).
    LeastStale,
    /// One pool; who is wanted again last, the newcomer included. Needs to know the future: the bound.
    Belady,
}

impl Policy {
    /// All of them, with their names.
    pub const ALL: [(Policy, &'static str); 7] = [
        (Policy::LayerLru, "LRU per layer"),
        (Policy::LayerLfu, "LFU per layer"),
        (Policy::LayerFadingLfu, "fading LFU per layer"),
        (Policy::GlobalLru, "global LRU"),
        (Policy::GlobalLruFloor, "global LRU, floor"),
        (Policy::LeastStale, "least stale"),
        (Policy::Belady, "Belady's bound"),
    ];

    fn is_per_layer(self) -> bool {
        matches!(self, Self::LayerLru | Self::LayerLfu | Self::LayerFadingLfu)
    }
}

/// Share of wanted experts that `policy` has in memory when `slots` of them fit in all.
pub fn hit_rate(trace: &Trace, policy: Policy, slots: usize) -> f64 {
    let mut pool = Pool::new(trace, policy, slots);
    for token in 0..trace.tokens.len() {
        (0..trace.layers.len()).for_each(|layer| pool.serve(token, layer));
    }
    let wanted: usize = trace.tokens.iter().flatten().map(Vec::len).sum();
    if wanted == 0 { 1.0 } else { pool.hits as f64 / wanted as f64 }
}

/// An expert in memory.
struct Resident {
    layer: usize,
    expert: u32,
    used: usize, // the step of its last use
}

struct Pool<'a> {
    trace: &'a Trace,
    policy: Policy,
    slots: usize,
    residents: Vec<Resident>,
    counts: Vec<Vec<u64>>,        // per layer and expert: uses so far
    lately: Vec<Frequency>,       // the same, fading
    future: Vec<Vec<Vec<usize>>>, // per layer and expert: steps that want it, the next one last
    floor: usize,
    hits: usize,
}

impl<'a> Pool<'a> {
    fn new(trace: &'a Trace, policy: Policy, slots: usize) -> Self {
        let table = |layer: &super::TracedLayer| vec![0; layer.expert_count];
        let counts = trace.layers.iter().map(table).collect();
        let mut future: Vec<Vec<Vec<usize>>> =
            trace.layers.iter().map(|layer| vec![vec![]; layer.expert_count]).collect();
        for (token, layers) in trace.tokens.iter().enumerate().rev() {
            for (layer, chosen) in layers.iter().enumerate() {
                let step = token * trace.layers.len() + layer;
                chosen.iter().for_each(|&expert| future[layer][expert as usize].push(step));
            }
        }
        let lately = trace.layers.iter().map(|layer| Frequency::new(layer.expert_count)).collect();
        let floor = trace.tokens.iter().flatten().map(Vec::len).max().unwrap_or(0);
        Self { trace, policy, slots, residents: vec![], counts, lately, future, floor, hits: 0 }
    }

    /// Slots that `layer` may fill.
    fn quota(&self, layer: usize) -> usize {
        match self.policy.is_per_layer() {
            false => self.slots,
            true => {
                let layers = self.trace.layers.len();
                self.slots / layers + usize::from(layer < self.slots % layers)
            }
        }
    }

    /// Residents that share a quota with `layer`.
    fn filled(&self, layer: usize) -> usize {
        let shares = |resident: &&Resident| !self.policy.is_per_layer() || resident.layer == layer;
        self.residents.iter().filter(shares).count()
    }

    fn serve(&mut self, token: usize, layer: usize) {
        let step = token * self.trace.layers.len() + layer;
        let chosen = &self.trace.tokens[token][layer];
        let mut missing = vec![];
        self.lately[layer].pass(1);
        for &expert in chosen {
            self.lately[layer].add(expert, 1);
            self.counts[layer][expert as usize] += 1;
            self.future[layer][expert as usize].pop();
            let here = self.residents.iter_mut().find(|r| (r.layer, r.expert) == (layer, expert));
            match here {
                Some(resident) => {
                    resident.used = step;
                    self.hits += 1;
                }
                None => missing.push(expert),
            }
        }
        for expert in missing {
            if self.filled(layer) >= self.quota(layer) {
                let Some(leaving) = self.leaving(layer, expert, step) else { continue };
                self.residents.swap_remove(leaving);
            }
            self.residents.push(Resident { layer, expert, used: step });
        }
    }

    /// Who leaves for an expert of `layer`: nobody who is wanted in this step, unless the future is known.
    fn leaving(&self, layer: usize, expert: u32, step: usize) -> Option<usize> {
        let knows = self.policy == Policy::Belady;
        let may_leave = |resident: &Resident| {
            let protected = self.policy == Policy::GlobalLruFloor
                && resident.layer != layer
                && self.residents.iter().filter(|r| r.layer == resident.layer).count() <= self.floor;
            let other = self.policy.is_per_layer() && resident.layer != layer;
            (knows || resident.used != step) && !protected && !other
        };
        let candidates = self.residents.iter().enumerate().filter(|(_, resident)| may_leave(resident));
        let (least, leaving) = candidates.map(|(i, resident)| (self.worth(resident, step), i)).min()?;
        let newcomer = self.worth(&Resident { layer, expert, used: step }, step);
        (!knows || newcomer > least).then_some(leaving)
    }

    /// The least worth leaves first.
    fn worth(&self, resident: &Resident, step: usize) -> (usize, usize) {
        let layers = self.trace.layers.len();
        match self.policy {
            Policy::LayerLru | Policy::GlobalLru | Policy::GlobalLruFloor => (resident.used, 0),
            Policy::LayerLfu => {
                (self.counts[resident.layer][resident.expert as usize] as usize, resident.used)
            }
            Policy::LayerFadingLfu => {
                (self.lately[resident.layer].of(resident.expert as usize) as usize, resident.used)
            }
            // Used when its layer was last computed: at most one round of the layers ago.
            Policy::LeastStale if step - resident.used <= layers => (1, layers - (step - resident.used)),
            Policy::LeastStale => (0, resident.used),
            Policy::Belady => {
                let next = self.future[resident.layer][resident.expert as usize].last();
                (next.map_or(0, |next| usize::MAX - next), 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TracedLayer;
    use super::*;

    fn trace(layers: usize, tokens: &[&[u32]]) -> Trace {
        let layer = |layer| TracedLayer { layer, expert_count: 4, expert_bytes: 1 };
        let token = |experts: &&[u32]| vec![experts.to_vec(); layers];
        Trace { layers: (0..layers).map(layer).collect(), tokens: tokens.iter().map(token).collect() }
    }

    #[test]
    fn one_queue_for_all_layers_falls_off_a_cliff_and_shares_do_not() {
        let steady = trace(4, &[&[0, 1][..]; 10]);
        let rate = |policy, slots| hit_rate(&steady, policy, slots);
        for (policy, _) in Policy::ALL {
            assert_eq!(rate(policy, 8), 0.9, "{policy:?}: all but the first token");
            assert_eq!(rate(policy, 0), 0.0);
        }
        assert_eq!(rate(Policy::GlobalLru, 6), 0.0);
        assert_eq!(rate(Policy::LayerLru, 4), 0.45, "half of what is wanted stays");
        assert_eq!((rate(Policy::Belady, 6), rate(Policy::LayerLru, 6)), (0.675, 0.675));
    }

    #[test]
    fn policies_differ_as_their_names_say() {
        // Two slots: 0 is used often, 1 and 2 in between, then 0 again.
        let often = trace(1, &[&[0], &[0], &[1], &[2], &[0]]);
        assert_eq!(hit_rate(&often, Policy::LayerLfu, 2), 0.4);
        assert_eq!(hit_rate(&often, Policy::LayerLru, 2), 0.2);
        assert_eq!(hit_rate(&often, Policy::Belady, 2), 0.4);
    }

    #[test]
    fn nobody_beats_the_one_who_knows_the_future() {
        let mut state = 1u64;
        let mut random = || {
            state = state * 48_271 % 0x7fff_ffff;
            (state % 4) as u32
        };
        let tokens: Vec<Vec<u32>> = (0..300)
            .map(|_| {
                let first = random();
                vec![first, (first + 1 + random() % 3) % 4]
            })
            .collect();
        let trace = trace(3, &tokens.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for slots in [1, 4, 6, 9, 11] {
            let bound = hit_rate(&trace, Policy::Belady, slots);
            for (policy, _) in Policy::ALL {
                let rate = hit_rate(&trace, policy, slots);
                assert!(rate <= bound && (0.0..1.0).contains(&rate), "{policy:?} {slots}: {rate} {bound}");
            }
        }
        assert!(hit_rate(&trace, Policy::LayerLru, 12) > 0.98);
    }
}
