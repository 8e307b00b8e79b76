//! Tensors as data: which GGUF tensor is made of which tensors of the checkpoint, and how.
//!
//! Names are patterns: `{i}` is the layer, `{e}` an expert (all of them are stacked), `{s}` a shared expert (all of
//! them are joined). A rule lists alternatives, because exporters changed their layouts over time.

use super::params::{Dim, Params};

/// A change of how the elements of a tensor are read; none of them computes with weights ([`Change`] does).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    /// Swaps the last two axes: (in, out) becomes (out, in).
    Transpose,
    /// Part `.0` of `.1` equal parts of the rows (of a vector: of its elements).
    Part(u64, u64),
    /// Part `.0` of `.1` that alternate row by row (of a vector per row: element by element).
    Every(u64, u64),
    /// The same on the last axis.
    EveryLast(u64, u64),
    /// Rows of each of so many heads from half-and-half rotation pairs to neighbouring pairs.
    PairHalves(Dim),
    /// Rows are so many heads of equal length; keeps the rows before (`true`) or from the given one on, per head,
    /// and makes heads an axis of their own.
    SplitHeads(Dim, Dim, bool),
    /// Drops axes of length 1.
    Squeeze,
    /// Adds a last axis of length 1.
    Unsqueeze,
    /// Elements of a vector in so many rows.
    Fold(Dim),
    /// Rows (of a vector: elements) are so many groups, each of sections as long as `.1` lists; keeps section `.2` of
    /// each group.
    Section(Dim, &'static [Dim], usize),
    /// Rows of value heads from (key head, its value head) to (value head, key head): llama.cpp counts key heads anew
    /// with each value head.
    TileRows,
    /// The same on the last axis.
    TileColumns,
}

/// What is computed with each weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Nothing,
    /// The model computes with the stored weight plus one (Gemma's norms); GGUF holds the sum.
    PlusOne,
    /// The model computes with minus the exponential of the stored weight (decay of states); GGUF holds that.
    MinusExp,
}

impl Change {
    pub(super) fn apply(self, weights: &mut [f32]) {
        match self {
            Self::Nothing => {}
            Self::PlusOne => weights.iter_mut().for_each(|weight| *weight += 1.0),
            Self::MinusExp => weights.iter_mut().for_each(|weight| *weight = -weight.exp()),
        }
    }
}

/// How several tensors become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Join {
    /// Below each other.
    Rows,
    /// Side by side.
    Columns,
}

/// One way to make a tensor.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) names: Vec<&'static str>,
    pub(super) join: Join,
    pub(super) ops: Vec<Op>,
    /// Where a tensor is joined of parts of itself: what is done to it for each.
    pub(super) pieces: Vec<Vec<Op>>,
    pub(super) when: Option<fn(&Params) -> bool>,
    pub(super) holds: Holds,
}

/// What a tensor of the checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Holds {
    Weights,
    /// Whole numbers that name experts; they stay what they are.
    Indices,
}

impl Source {
    fn of(names: Vec<&'static str>, join: Join) -> Self {
        Self { names, join, ops: vec![], pieces: vec![], when: None, holds: Holds::Weights }
    }
}

/// Layers that a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layers {
    All,
    Dense,
    Experts,
}

/// What it means that no source is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Presence {
    /// An error.
    Required,
    /// An error if the configuration says so, else the rule does not apply at all.
    When(fn(&Params) -> bool),
}

/// One tensor of the GGUF file.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) to: &'static str,
    pub(super) sources: Vec<Source>,
    pub(super) shape: Vec<Dim>,
    pub(super) layers: Layers,
    /// Of those layers, only such.
    pub(super) kind: Option<fn(&Params, u64) -> bool>,
    pub(super) presence: Presence,
    pub(super) change: Change,
}

/// A tensor made of one tensor; `shape` is that of the result, slowest axis first.
pub(super) fn rule(to: &'static str, from: &'static str, shape: impl Into<Vec<Dim>>) -> Rule {
    Rule {
        to,
        sources: vec![Source::of(vec![from], Join::Rows)],
        shape: shape.into(),
        layers: Layers::All,
        kind: None,
        presence: Presence::Required,
        change: Change::Nothing,
    }
}

/// A tensor made of several that are joined.
pub(super) fn joined(
    to: &'static str,
    from: &[&'static str],
    join: Join,
    shape: impl Into<Vec<Dim>>,
) -> Rule {
    let mut rule = rule(to, "", shape);
    rule.sources[0].names = from.to_vec();
    rule.sources[0].join = join;
    rule
}

impl Rule {
    /// Another way to make it, where the tensors of the ways before are not there.
    pub(super) fn or(mut self, from: &'static str) -> Self {
        self.sources.push(Source::of(vec![from], Join::Rows));
        self
    }

    /// A change to what the last source reads.
    pub(super) fn op(mut self, op: Op) -> Self {
        if let Some(source) = self.sources.last_mut() {
            source.ops.push(op);
        }
        self
    }

    /// The last source is joined of parts of itself.
    pub(super) fn pieces(mut self, pieces: &[&[Op]]) -> Self {
        if let Some(source) = self.sources.last_mut() {
            source.pieces = pieces.iter().map(|ops| ops.to_vec()).collect();
        }
        self
    }

    /// The last source counts only if the configuration says so.
    pub(super) fn only_if(mut self, when: fn(&Params) -> bool) -> Self {
        if let Some(source) = self.sources.last_mut() {
            source.when = Some(when);
        }
        self
    }

    /// The last source holds no weights.
    pub(super) fn indices(mut self) -> Self {
        if let Some(source) = self.sources.last_mut() {
            source.holds = Holds::Indices;
        }
        self
    }

    /// How `{s}` joins.
    pub(super) fn columns(mut self) -> Self {
        self.sources.iter_mut().for_each(|source| source.join = Join::Columns);
        self
    }

    /// Exists only in models whose configuration says so.
    pub(super) fn when(mut self, when: fn(&Params) -> bool) -> Self {
        self.presence = Presence::When(when);
        self
    }

    /// Exists only in layers with experts.
    pub(super) fn in_expert_layers(mut self) -> Self {
        self.layers = Layers::Experts;
        self
    }

    /// Exists only in layers without experts.
    pub(super) fn in_dense_layers(mut self) -> Self {
        self.layers = Layers::Dense;
        self
    }

    /// Exists in layers with experts and without.
    pub(super) fn in_all_layers(mut self) -> Self {
        self.layers = Layers::All;
        self
    }

    /// Exists only in layers of which the function says so.
    pub(super) fn in_layers(mut self, kind: fn(&Params, u64) -> bool) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Computes with the weights.
    pub(super) fn changed(mut self, change: Change) -> Self {
        self.change = change;
        self
    }

    /// [`Change::PlusOne`].
    pub(super) fn plus_one(self) -> Self {
        self.changed(Change::PlusOne)
    }
}

/// Whether a name fits a pattern: `{i}` is any number, a final `*` anything.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once("{i}") else {
        return pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start));
    };
    let Some(rest) = name.strip_prefix(before) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && fits(after, &rest[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.{i}.b", "a.12.b", true),
            ("a.{i}.b", "a..b", false),
            ("a.{i}.b", "a.x.b", false),
            ("a.{i}.*", "a.1.b.c", true),
            ("vision.*", "vision.x", true),
            ("vision.*", "visio", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
