//! What another way of choosing who leaves would have hit, and what that is worth in time: a recorded routing played
//! through a simulated bank, disk and processor.
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

/// How fast a machine is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes per second of its disk, which serves one read after the other.
    pub disk: f64,
    /// Seconds that a token takes where all experts are in memory.
    pub compute: f64,
}

/// What a layer's time goes to where nothing waits: attention and router, then what else is computed without routed
/// experts, then these. Measured on Möwe-mini.
const BEFORE_CHOICE: f64 = 0.45;
const SHARED: f64 = 0.1;
const EXPERTS: f64 = 0.45;

/// What a replay came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Replayed {
    /// Share of wanted experts that were in memory; 1 where none was wanted.
    pub hit_rate: f64,
    /// Bytes read.
    pub bytes: u64,
    /// Seconds in all.
    pub time: f64,
    /// Of these, seconds in which nothing could be computed.
    pub stall: f64,
    /// Seconds in which the disk read.
    pub disk_busy: f64,
}

/// Plays a recording token by token where `slots` experts fit in all and `policy` says who leaves.
///
/// As in the store, what a layer lacks is asked for as soon as its router has chosen; then its shared expert is computed,
/// then the experts that are there, then each other as it arrives.
pub fn replay(trace: &Trace, policy: Policy, slots: usize, pace: Pace) -> Replayed {
    let mut pool = Pool::new(trace, policy, slots);
    let mut clock = Clock { pace, layers: trace.layers.len() as f64, sum: Replayed::default() };
    for token in 0..trace.tokens.len() {
        for (layer, traced) in trace.layers.iter().enumerate() {
            let missing = pool.serve(token, layer);
            clock.pass(trace.tokens[token][layer].len(), missing, traced.expert_bytes);
        }
    }
    let wanted: usize = trace.tokens.iter().flatten().map(Vec::len).sum();
    let hit_rate = if wanted == 0 { 1.0 } else { pool.hits as f64 / wanted as f64 };
    Replayed { hit_rate, ..clock.sum }
}

/// Share of wanted experts that `policy` has in memory when `slots` of them fit in all.
pub fn hit_rate(trace: &Trace, policy: Policy, slots: usize) -> f64 {
    replay(trace, policy, slots, Pace { disk: f64::INFINITY, compute: 0.0 }).hit_rate
}

/// The events of a layer's turn, in seconds.
struct Clock {
    pace: Pace,
    layers: f64,
    sum: Replayed,
}

impl Clock {
    /// A layer with `chosen` experts, `missing` of which are read.
    fn pass(&mut self, chosen: usize, missing: usize, expert_bytes: u64) {
        let layer = self.pace.compute / self.layers;
        let read = expert_bytes as f64 / self.pace.disk;
        let expert = if chosen == 0 { 0.0 } else { layer * EXPERTS / chosen as f64 };
        // From the router's choice on; the disk has been idle since the layer before.
        let mut now = layer * SHARED + (chosen - missing) as f64 * expert;
        for number in 1..=missing {
            let arrived = number as f64 * read;
            self.sum.stall += (arrived - now).max(0.0);
            now = now.max(arrived) + expert;
        }
        self.sum.time += layer * BEFORE_CHOICE + now;
        self.sum.disk_busy += missing as f64 * read;
        self.sum.bytes += missing as u64 * expert_bytes;
    }
}

/// An expert in memory.
struct Resident {
    expert: u32,
    used: usize, // the step of its last use
}

struct Pool<'a> {
    trace: &'a Trace,
    policy: Policy,
    slots: usize,
    residents: Vec<Vec<Resident>>, // per layer
    held: usize,                   // of all layers
    counts: Vec<Vec<u64>>,         // per layer and expert: uses so far
    lately: Vec<Frequency>,        // the same, fading
    future: Vec<Vec<Vec<usize>>>,  // per layer and expert: steps that want it, the next one last
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
        let residents = trace.layers.iter().map(|_| vec![]).collect();
        Self { trace, policy, slots, residents, held: 0, counts, lately, future, floor, hits: 0 }
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
        if self.policy.is_per_layer() { self.residents[layer].len() } else { self.held }
    }

    /// A layer's turn; how many of its experts are missing.
    fn serve(&mut self, token: usize, layer: usize) -> usize {
        let step = token * self.trace.layers.len() + layer;
        let chosen = &self.trace.tokens[token][layer];
        let mut missing = vec![];
        self.lately[layer].pass(1);
        for &expert in chosen {
            self.lately[layer].add(expert, 1);
            self.counts[layer][expert as usize] += 1;
            self.future[layer][expert as usize].pop();
            let here = self.residents[layer].iter_mut().find(|resident| resident.expert == expert);
            match here {
                Some(resident) => {
                    resident.used = step;
                    self.hits += 1;
                }
                None => missing.push(expert),
            }
        }
        for &expert in &missing {
            if self.filled(layer) >= self.quota(layer) {
                let Some((of, leaving)) = self.leaving(layer, expert, step) else { continue };
                self.residents[of].swap_remove(leaving);
                self.held -= 1;
            }
            self.residents[layer].push(Resident { expert, used: step });
            self.held += 1;
        }
        missing.len()
    }

    /// Who leaves for an expert of `layer`, as a layer and a place among its residents: nobody who is wanted in this step,
    /// unless the future is known.
    fn leaving(&self, layer: usize, expert: u32, step: usize) -> Option<(usize, usize)> {
        let knows = self.policy == Policy::Belady;
        let keeps_floor = self.policy == Policy::GlobalLruFloor;
        let layers = if self.policy.is_per_layer() { layer..layer + 1 } else { 0..self.residents.len() };
        let layers =
            layers.filter(|&of| of == layer || !keeps_floor || self.residents[of].len() > self.floor);
        let candidates = layers.flat_map(|of| self.residents[of].iter().enumerate().map(move |r| (of, r)));
        let candidates = candidates.filter(|(_, (_, resident))| knows || resident.used != step);
        let (least, leaving) =
            candidates.map(|(of, (place, resident))| (self.worth(of, resident, step), (of, place))).min()?;
        let newcomer = self.worth(layer, &Resident { expert, used: step }, step);
        (!knows || newcomer > least).then_some(leaving)
    }

    /// The least worth leaves first.
    fn worth(&self, layer: usize, resident: &Resident, step: usize) -> (usize, usize) {
        let layers = self.trace.layers.len();
        match self.policy {
            Policy::LayerLru | Policy::GlobalLru | Policy::GlobalLruFloor => (resident.used, 0),
            Policy::LayerLfu => (self.counts[layer][resident.expert as usize] as usize, resident.used),
            Policy::LayerFadingLfu => {
                (self.lately[layer].of(resident.expert as usize) as usize, resident.used)
            }
            // Used when its layer was last computed: at most one round of the layers ago.
            Policy::LeastStale if step - resident.used <= layers => (1, layers - (step - resident.used)),
            Policy::LeastStale => (0, resident.used),
            Policy::Belady => {
                let next = self.future[layer][resident.expert as usize].last();
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
        let tokens = tokens.iter().map(token).collect();
        Trace { layers: (0..layers).map(layer).collect(), tokens, best: vec![] }
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
    fn time_is_computing_and_what_reads_are_not_hidden() {
        // Two experts of one byte each, of which the first is there from the second token on.
        let two = trace(1, &[&[0, 1], &[0, 2]]);
        let pace = |disk| Pace { disk, compute: 1.0 };
        let at_once = replay(&two, Policy::LayerLru, 4, pace(f64::INFINITY));
        assert_eq!((at_once.hit_rate, at_once.bytes, at_once.stall), (0.25, 3, 0.0));
        assert!((at_once.time - 2.0).abs() < 1e-9);
        // A read takes 1 s: of the first token's two, 0.1 s of the shared expert and one expert's 0.225 s are hidden; of
        // the second one's, 0.1 s and the expert that was there.
        let slow = replay(&two, Policy::LayerLru, 4, pace(1.0));
        let stall = (1.0 - 0.1) + (1.0 - 0.225) + (1.0 - 0.1 - 0.225);
        assert!((slow.stall - stall).abs() < 1e-9 && (slow.time - 2.0 - stall).abs() < 1e-9, "{slow:?}");
        assert_eq!(slow.disk_busy, 3.0);
        // Reads that are as fast as what is computed meanwhile cost nothing.
        assert_eq!(replay(&two, Policy::LayerLru, 4, pace(10.0)).stall, 0.0);
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
