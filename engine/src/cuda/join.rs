//! Joins neighbours among the launches of a step of few rows, which was written down: seven kernels are left of a layer.
//!
//! A kernel takes a few microseconds to begin, about as long as it computes with a small matrix. So a product normalises
//! and rounds its inputs itself, gate and up go with their activation, and the last block of a sum adds it to the residual
//! stream. Joined kernels (`kernels/decode.cu`, `heads` in `attention.cu`) have the bits of those that they replace;
//! launches whose results nobody reads any more are left out.

use super::arguments::{Argument, ChoicesAt, MatrixAt, NormAt, Pieces};
use super::kernels::Kernels;
use super::launch::{NORM_SHARED, arguments, choice_arguments, decode_shared, route_shared};
use super::written::{ExpertProduct, Launch, Product, What};
use crate::quant::Format;

/// Shared memory that every block may have.
const MOST_SHARED: usize = 48 << 10;
/// Blocks up to which each makes its inputs itself.
const MOST_BLOCKS: usize = 1024;
/// Matrices that one launch takes.
const MOST_MATRICES: usize = 3;

/// Where inputs come from: rows as they are, or normalised.
#[derive(Clone, Copy, PartialEq)]
struct Source {
    x: u64,
    norm: Option<NormAt>,
}

impl Source {
    /// Of what a launch reads as `x`.
    fn of(list: &[Launch], at: usize, x: u64) -> Self {
        let plain = Self { x, norm: None };
        let Some(before) = list[..at].iter().rposition(|launch| launch.what.writes(x)) else { return plain };
        match list[before].what {
            What::Norm { norm, x: from, .. } => {
                let has_changed = list[before..at].iter().any(|launch| launch.what.writes(from));
                if has_changed { plain } else { Self { x: from, norm: Some(norm) } }
            }
            _ => plain,
        }
    }

    /// Address and width of the rows, weights, bias, epsilon and kind of the norm.
    fn arguments(&self, width: usize) -> [Argument; 6] {
        let none = NormAt { weight: 0, bias: 0, epsilon: 0.0, is_layer_norm: false };
        let NormAt { weight, bias, epsilon, is_layer_norm } = self.norm.unwrap_or(none);
        [self.x.into(), width.into(), weight.into(), bias.into(), epsilon.into(), is_layer_norm.into()]
    }
}

/// One of the products whose results go through an activation.
#[derive(Clone, Copy)]
struct Side {
    matrix: MatrixAt,
    bias: u64,
    x: u64,
}

/// Both, and what becomes of them.
struct GateUp {
    gate: Option<Side>,
    up: Side,
    experts: Option<(ChoicesAt, u64)>, // and their addresses
    slots: usize,
    out: u64,
    kind: i32, // of the activation
}

/// A rotation: where its angles are, how many columns it turns, and which of them are pairs.
type Turn = (u64, usize, bool);

/// Launches that became one: it, and their places.
type Joined = Option<(Launch, Vec<usize>)>;

/// The launch that follows, but for the rounding of inputs, which joined kernels do themselves.
fn after(list: &[Launch], at: usize) -> Option<usize> {
    (at + 1..list.len()).find(|&place| !matches!(list[place].what, What::Quantize { .. }))
}

/// Whether nobody reads a buffer behind a launch before it is written anew.
fn is_unread(list: &[Launch], buffer: u64, behind: usize) -> bool {
    for launch in &list[behind + 1..] {
        if launch.what.reads(buffer) {
            return false;
        }
        if launch.what.replaces(buffer) {
            return true;
        }
    }
    true
}

/// The addition of a result to the residual stream, where that follows and is all that becomes of it.
fn residual(list: &[Launch], at: usize, result: u64) -> Option<(usize, u64, f32)> {
    let place = after(list, at)?;
    match list[place].what {
        What::Add { x, added, scale } if added == result && is_unread(list, added, place) => {
            Some((place, x, scale))
        }
        _ => None,
    }
}

/// Shared memory of a product that makes its inputs, if a block may have so much.
fn shared_of(format: &Format, cols: usize) -> Option<usize> {
    let shared = decode_shared(format, cols);
    (shared <= MOST_SHARED).then_some(shared)
}

fn blocks_of(matrix: &MatrixAt) -> usize {
    matrix.rows.div_ceil(32)
}

fn is_alike(a: &MatrixAt, b: &MatrixAt) -> bool {
    a.format == b.format && a.cols == b.cols && a.is_panels == b.is_panels
}

impl Kernels {
    /// The launches with neighbours joined.
    pub(super) fn joined(&self, list: Vec<Launch>) -> Vec<Launch> {
        let mut all = vec![];
        let mut at = 0;
        while at < list.len() {
            let (launch, places) = self.join(&list, at).unwrap_or_else(|| (list[at].clone(), vec![at]));
            let end = places.iter().max().map_or(at, |last| last + 1);
            all.extend((at..end).filter(|place| !places.contains(place)).map(|place| list[place].clone()));
            all.push(launch);
            at = end;
        }
        // From the end on: what is left out may have been all that read another.
        for place in (0..all.len()).rev() {
            let result = all[place].what.result();
            if result.is_some_and(|result| is_unread(&all, result, place)) {
                all.remove(place);
            }
        }
        all
    }

    fn join(&self, list: &[Launch], at: usize) -> Joined {
        match &list[at].what {
            What::Product(product) => self
                .join_route(list, at, product)
                .or_else(|| self.join_gate_up(list, at, product))
                .or_else(|| self.join_products(list, at, product)),
            What::ExpertProduct(product) if product.which == 2 => self.join_down(list, at, product),
            What::ExpertProduct(product) => self.join_experts(list, at, product),
            What::NormSpan { x, .. } | What::Rope { x, .. } => self.join_heads(list, at, *x),
            _ => None,
        }
    }

    /// Products with the same inputs, side by side; of a single one, its addition to the residual stream.
    fn join_products(&self, list: &[Launch], at: usize, first: &Product) -> Joined {
        let source = Source::of(list, at, first.x);
        let (mut places, mut products, mut blocks) = (vec![at], vec![*first], blocks_of(&first.matrix));
        while products.len() < MOST_MATRICES
            && let Some(place) = after(list, places[places.len() - 1])
            && let What::Product(next) = list[place].what
            && next.out == first.out
            && is_alike(&next.matrix, &first.matrix)
            && Source::of(list, place, next.x) == source
        {
            blocks += blocks_of(&next.matrix);
            places.push(place);
            products.push(next);
        }
        let MatrixAt { format, cols, is_panels, .. } = first.matrix;
        if blocks * first.rows > MOST_BLOCKS {
            return None;
        }
        let (mut out, mut scale) = (first.out, None);
        if products.len() == 1
            && first.fills_out()
            && let Some((place, x, by)) = residual(list, at, first.out)
            && x != source.x
        {
            places.push(place);
            (out, scale) = (x, Some(by));
        }
        let mut a = source.arguments(cols).to_vec();
        a.extend_from_slice(arguments![cols, is_panels, self.points(format)]);
        for i in 0..MOST_MATRICES {
            let product = products.get(i);
            let (bytes, rows) = product.map_or((0, 0), |product| (product.matrix.bytes, product.matrix.rows));
            let (bias, to) = product.map_or((0, 0), |product| (product.bias, product.at));
            a.extend_from_slice(arguments![bytes, rows, bias, to]);
        }
        a.extend_from_slice(arguments![out, first.out_width, scale.is_some(), scale.unwrap_or(1.0)]);
        let launch = Launch {
            kernel: self.modules().products(format).row_products.clone(),
            grid: (blocks, first.rows),
            shared: shared_of(format, cols)?,
            arguments: a,
            what: What::other(&[source.x, out], &[out]),
        };
        Some((launch, places))
    }

    /// A router and the choice by its logits.
    fn join_route(&self, list: &[Launch], at: usize, router: &Product) -> Joined {
        let place = after(list, at)?;
        let What::Route { logits, bias, by, to } = list[place].what else { return None };
        let MatrixAt { format, rows: experts, cols, .. } = router.matrix;
        let kernel = self.modules().products(format).norm_route.clone()?;
        if logits != router.out || !router.fills_out() {
            return None;
        }
        let source = Source::of(list, at, router.x);
        let mut a = source.arguments(cols).to_vec();
        a.extend_from_slice(arguments![
            router.matrix.bytes,
            experts,
            cols,
            router.bias,
            logits,
            self.counters(router.rows)?,
            bias
        ]);
        a.extend_from_slice(&choice_arguments(&by, to));
        let launch = Launch {
            kernel,
            grid: (blocks_of(&router.matrix), router.rows),
            shared: shared_of(format, cols)?.max(route_shared(experts)),
            arguments: a,
            what: What::other(&[source.x], &[logits, to.choices, to.scores]),
        };
        Some((launch, vec![at, place]))
    }

    /// Gate, up and activation of one FFN.
    fn join_gate_up(&self, list: &[Launch], at: usize, first: &Product) -> Joined {
        let second = after(list, at)?;
        let (other, last) = match list[second].what {
            What::Product(other) => (Some(other), after(list, second)?),
            _ => (None, second),
        };
        let What::Activate { gate: of_gate, up: of_up, kind, choices: None } = list[last].what else {
            return None;
        };
        // They come in either order.
        let (gate, up) = match other {
            Some(other) if other.out == of_up => (Some(*first), other),
            other => (other, *first),
        };
        let is_it = of_gate == gate.map_or(0, |gate| gate.out) && of_up == up.out;
        let is_whole = up.fills_out() && gate.is_none_or(|gate| gate.fills_out());
        if !is_it || !is_whole || (gate.is_some() && !is_unread(list, of_gate, last)) {
            return None;
        }
        let places = if gate.is_some() { vec![at, second, last] } else { vec![at, last] };
        let side = |product: Product| Side { matrix: product.matrix, bias: product.bias, x: product.x };
        let (slots, out) = (up.rows, up.out);
        self.gate_up(
            list,
            places,
            GateUp { gate: gate.map(side), up: side(up), experts: None, slots, out, kind },
        )
    }

    /// The same of the chosen experts.
    fn join_experts(&self, list: &[Launch], at: usize, first: &ExpertProduct) -> Joined {
        let (gate, second) = match first.which {
            0 => (Some(*first), after(list, at)?),
            _ => (None, at),
        };
        let What::ExpertProduct(up) = list[second].what else { return None };
        let last = after(list, second)?;
        let What::Activate { gate: of_gate, up: of_up, kind, choices: Some(choices) } = list[last].what
        else {
            return None;
        };
        let is_it = up.which == 1 && of_gate == gate.map_or(0, |gate| gate.out) && of_up == up.out;
        let is_same = choices == up.choices.choices
            && gate.is_none_or(|gate| gate.choices.choices == choices && gate.addresses == up.addresses);
        if !is_it || !is_same || (gate.is_some() && !is_unread(list, of_gate, last)) {
            return None;
        }
        let places = if gate.is_some() { vec![at, second, last] } else { vec![at, last] };
        let side = |product: ExpertProduct| Side { matrix: product.matrix, bias: product.bias, x: product.x };
        let experts = Some((up.choices, up.addresses));
        let (slots, out) = (up.choices.rows * up.choices.used, up.out);
        self.gate_up(list, places, GateUp { gate: gate.map(side), up: side(up), experts, slots, out, kind })
    }

    fn gate_up(&self, list: &[Launch], places: Vec<usize>, what: GateUp) -> Joined {
        let GateUp { gate, up, experts, slots, out, kind } = what;
        let matrix = up.matrix;
        let source = Source::of(list, places[places.len() - 2], up.x);
        let is_other = |gate: Side| {
            let has_shape = is_alike(&gate.matrix, &matrix) && gate.matrix.rows == matrix.rows;
            !has_shape || Source::of(list, places[0], gate.x) != source
        };
        if gate.is_some_and(is_other) || blocks_of(&matrix) * slots > MOST_BLOCKS {
            return None;
        }
        let (choices, addresses) = experts.map_or((0, 0), |(choices, at)| (choices.choices, at));
        let used = experts.map_or(1, |(choices, _)| choices.used);
        let (gate_bytes, gate_bias) = gate.map_or((0, 0), |gate| (gate.matrix.bytes, gate.bias));
        let mut a = source.arguments(matrix.cols).to_vec();
        a.extend_from_slice(arguments![
            gate_bytes,
            matrix.bytes,
            addresses,
            choices,
            used,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            gate_bias,
            up.bias,
            kind,
            out
        ]);
        let launch = Launch {
            kernel: self.modules().products(matrix.format).gate_up.clone(),
            grid: (blocks_of(&matrix), slots),
            shared: shared_of(matrix.format, matrix.cols)?,
            arguments: a,
            what: What::other(&[source.x, choices], &[out]),
        };
        Some((launch, places))
    }

    /// Down, the weighted sum and its addition to the residual stream.
    fn join_down(&self, list: &[Launch], at: usize, down: &ExpertProduct) -> Joined {
        let place = after(list, at)?;
        let What::Combine { added, slots, choices } = list[place].what else { return None };
        if slots != down.out || choices.choices != down.choices.choices {
            return None;
        }
        let mut places = vec![at, place];
        let writer = list[..at].iter().rev().find(|launch| launch.what.writes(added));
        let is_cleared = writer.is_some_and(|launch| matches!(launch.what, What::Clear { .. }));
        let start = if is_cleared { 0 } else { added };
        let (mut out, mut scale) = (added, None);
        if let Some((place, x, by)) = residual(list, place, added) {
            places.push(place);
            (out, scale) = (x, Some(by));
        }
        let MatrixAt { format, rows, cols, is_panels, .. } = down.matrix;
        let (blocks, all) = (blocks_of(&down.matrix), choices.rows * choices.used);
        if blocks * all > MOST_BLOCKS {
            return None;
        }
        let a = arguments![
            down.x,
            down.addresses,
            choices.choices,
            choices.scores,
            choices.used,
            rows,
            cols,
            is_panels,
            self.points(format),
            down.bias,
            slots,
            self.counters(choices.rows * blocks)?,
            start,
            out,
            scale.is_some(),
            scale.unwrap_or(1.0)
        ];
        let launch = Launch {
            kernel: self.modules().products(format).down.clone(),
            grid: (blocks, all),
            shared: shared_of(format, cols)?,
            arguments: a.to_vec(),
            what: What::other(&[down.x, choices.choices, choices.scores, start, out], &[slots, out]),
        };
        Some((launch, places))
    }

    /// Norms and rotations of heads, and their keys and values into the cache.
    fn join_heads(&self, list: &[Launch], at: usize, x: u64) -> Joined {
        let mut norms: Vec<(NormAt, Pieces)> = vec![];
        let mut ropes: Vec<(Turn, Pieces)> = vec![];
        let mut places = vec![at];
        let (width, rows, keys, values, step, layer) = loop {
            let place = places[places.len() - 1];
            match list[place].what {
                What::NormSpan { norm, x: of, span } if of == x && ropes.is_empty() => {
                    norms.push((norm, span))
                }
                What::Rope { angles, dims, is_neox, x: of, span } if of == x => {
                    ropes.push(((angles, dims, is_neox), span));
                }
                What::Store { qkv, width, rows, keys, values, step, layer } if qkv == x => {
                    break (width, rows, keys, values, step, layer);
                }
                _ => return None,
            }
            places.push(after(list, place)?);
        };
        let queries = queries_of(&norms, &ropes, keys)?;
        let norm_of = |span: Pieces| norms.iter().find(|(_, of)| *of == span).map(|(norm, _)| *norm);
        let of =
            |span: Pieces| norm_of(span).map_or((0, 0, 0.0), |norm| (norm.weight, norm.bias, norm.epsilon));
        let (q, k) = (of(queries), of(keys));
        let is_layer_norm = norms.first().is_some_and(|(norm, _)| norm.is_layer_norm);
        let (angles, dims, is_neox) = ropes.first().map_or((0, 0, false), |(rope, _)| *rope);
        let a = arguments![
            x,
            width,
            queries.at,
            queries.count,
            queries.width,
            queries.stride,
            q.0,
            q.1,
            q.2,
            keys.at,
            keys.width,
            k.0,
            k.1,
            k.2,
            is_layer_norm,
            angles,
            dims / 2,
            is_neox,
            values.at,
            values.width,
            step.positions,
            step.sequences,
            step.tables,
            layer,
            step.max_pages,
            step.cache_format
        ];
        let launch = Launch {
            kernel: self.modules().step("heads").clone(),
            grid: (rows, queries.count + keys.count),
            shared: NORM_SHARED,
            arguments: a.to_vec(),
            what: What::other(&[x], &[x]),
        };
        Some((launch, places))
    }
}

/// The query heads, where every norm and every rotation is theirs or that of the key heads, once each, and the same ones
/// turn both.
fn queries_of(norms: &[(NormAt, Pieces)], ropes: &[(Turn, Pieces)], keys: Pieces) -> Option<Pieces> {
    let normed: Vec<_> = norms.iter().map(|(_, span)| *span).collect();
    let turned: Vec<_> = ropes.iter().map(|(_, span)| *span).collect();
    let queries = normed.iter().chain(&turned).copied().find(|span| *span != keys)?;
    let are_these = |spans: &[Pieces]| match spans {
        [] => true,
        [one] => [keys, queries].contains(one),
        [one, other] => one != other && [one, other].iter().all(|span| [keys, queries].contains(span)),
        _ => false,
    };
    let is_one = ropes.windows(2).all(|two| two[0].0 == two[1].0)
        && norms.windows(2).all(|two| two[0].0.is_layer_norm == two[1].0.is_layer_norm);
    let holds = are_these(&normed) && are_these(&turned) && ropes.len() != 1 && keys.stride == keys.width;
    (holds && is_one).then_some(queries)
}
