//! Where routers look: which experts the tokens of a check set choose, layer by layer, before anything is written.

use super::Gate;
use super::material::Passage;
use serde::Serialize;

/// Rows of a router that are that alike are the same to it.
const ALIKE: f64 = 0.99;

/// What a check of loads found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Loads {
    /// Tokens that were looked at.
    pub tokens: usize,
    /// One per expert, the mean over layers.
    pub experts: Vec<Load>,
    /// Share of tokens whose own expert is the first choice.
    pub own_first: f64,
    /// Share of tokens whose own expert is among the chosen.
    pub own_chosen: f64,
    /// Mean weight of the first choice.
    pub top_weight: f64,
    /// Share of first choices, by layer and expert.
    pub layers: Vec<Vec<f64>>,
    /// What should worry a person, a line each.
    pub warnings: Vec<String>,
}

/// The load of an expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Load {
    /// Share of first choices.
    pub first: f64,
    /// Share of all choices.
    pub chosen: f64,
    /// Share of its own tokens that choose it first.
    pub own: f64,
}

/// Counts layer by layer.
pub(super) struct Count {
    experts: usize,
    used: usize,
    loads: Loads,
    tokens_of: Vec<usize>, // of each expert, in a layer
    alike: Vec<usize>,     // layers in which a pair of rows is the same, by first * experts + second
}

impl Count {
    pub(super) fn new(experts: usize, used: usize, passages: &[&Passage]) -> Self {
        let mut tokens_of = vec![0; experts];
        passages.iter().for_each(|passage| tokens_of[passage.owner] += passage.content().len());
        let loads = Loads {
            tokens: tokens_of.iter().sum(),
            experts: vec![Load::default(); experts],
            ..Loads::default()
        };
        Self { experts, used, loads, tokens_of, alike: vec![0; experts * experts] }
    }

    /// Adds a layer: its router, and what that sees of all rows.
    pub(super) fn add(&mut self, gate: &Gate, passages: &[&Passage], router: &[f32]) {
        let width = gate.routed.len() / self.experts;
        let mut first = vec![0usize; self.experts];
        for passage in passages {
            for row in passage.content() {
                let input = &router[row * width..][..width];
                let scores = gate.scores(input);
                let mut order: Vec<usize> = (0..self.experts).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                let chosen = &order[..self.used];
                let sum: f64 = chosen.iter().map(|&e| (scores[e] - scores[order[0]]).exp()).sum();
                first[order[0]] += 1;
                chosen.iter().for_each(|&e| self.loads.experts[e].chosen += 1.0);
                self.loads.experts[passage.owner].own += f64::from(u8::from(order[0] == passage.owner));
                self.loads.own_first += f64::from(u8::from(order[0] == passage.owner));
                self.loads.own_chosen += f64::from(u8::from(chosen.contains(&passage.owner)));
                self.loads.top_weight += 1.0 / sum;
            }
        }
        let tokens = self.loads.tokens.max(1) as f64;
        self.loads.layers.push(first.iter().map(|&count| count as f64 / tokens).collect());
        for a in 0..self.experts {
            for b in a + 1..self.experts {
                self.alike[a * self.experts + b] += usize::from(gate.cosine(a, b, width) > ALIKE);
            }
        }
    }

    /// Means over layers, and what should worry.
    pub(super) fn finish(self) -> Loads {
        let Self { experts, used, mut loads, tokens_of, alike } = self;
        let layers = loads.layers.len().max(1) as f64;
        let all = (loads.tokens.max(1) as f64) * layers;
        for (e, load) in loads.experts.iter_mut().enumerate() {
            load.first = loads.layers.iter().map(|layer| layer[e]).sum::<f64>() / layers;
            load.chosen /= all * used as f64;
            load.own /= tokens_of[e].max(1) as f64 * layers;
        }
        loads.own_first /= all;
        loads.own_chosen /= all;
        loads.top_weight /= all;
        let least = 0.25 / experts as f64;
        let idle = loads.experts.iter().enumerate().filter(|(_, load)| load.chosen < least);
        let idle: Vec<String> = idle.map(|(e, load)| format!("{e} ({:.1} %)", 100.0 * load.chosen)).collect();
        if loads.tokens > 0 && experts > 1 && !idle.is_empty() {
            let line = "experts that hardly any token chooses: {}; give them prompts or texts nearer to what they are for, or train the router";
            loads.warnings.push(line.replace("{}", &idle.join(", ")));
        }
        let total = loads.layers.len();
        for (pair, count) in alike.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let (a, b) = (pair / experts, pair % experts);
            loads.warnings.push(format!(
                "experts {a} and {b} have the same gates in {count} of {total} layers: their order decides between them"
            ));
        }
        loads
    }
}
