//! Hidden widths of feed-forward networks that blocks do not divide, widened with zeros.
//!
//! A hidden unit whose rows of gate and up (and their biases) are zero is f(0) = 0 in every activation that GGUF
//! knows, and its column of down is zero as well: the function stays the same. Which width pays is decided in
//! `settle.rs`; here stand what can be widened, and the zeros. An embedding's width cannot: norms average over it.

use crate::report::Padding;
use crate::tensor::{Rows, Subject, Tensor};
use moewe_engine::Result;
use moewe_engine::gguf::{Metadata, TensorName};
use std::ops::Range;
use std::sync::Arc;

/// Block lengths that a width may be widened to.
const BLOCKS: [u64; 2] = [32, 256];

/// Beginnings of names in the feed-forward half that have no hidden units.
const OUTSIDE: &[&str] =
    &["ffn_norm", "ffn_pre_norm", "ffn_post_norm", "ffn_gate_inp", "ffn_down_exps.scale", "ffn_latent_"];

/// Where the hidden units of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Axis {
    Rows,    // gate and up
    Columns, // down, and biases
}

/// Hidden units of one tensor: `times` the width of its key (shared experts in one, gate and up in one).
#[derive(Clone, Copy, Debug)]
struct Part {
    axis: Axis,
    times: u64,
    joined: u64, // matrices one below the other, each widened for itself
}

/// A hidden width that can be widened, with all tensors that have it.
#[derive(Clone, Debug)]
pub(crate) struct Width {
    key: String,
    units: u64,
    parts: Vec<Option<Part>>, // one per tensor of the file
}

impl Width {
    /// Widths above its own that suit more blocks, ascending.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = u64> {
        let units = self.units;
        BLOCKS
            .iter()
            .filter(move |&&block| !units.is_multiple_of(block))
            .map(move |block| units.next_multiple_of(*block))
    }

    /// What is said of it when it becomes `to`.
    pub(crate) fn padding(&self, to: u64) -> Padding {
        Padding { key: self.key.clone(), from: self.units, to }
    }
}

/// The widths of a file that can be widened: those where every tensor with hidden units is known and fits its key, and
/// the key is one number for all layers.
pub(crate) fn widths(metadata: &Metadata, tensors: &[Tensor]) -> Vec<Width> {
    let hidden: Option<Vec<_>> = tensors.iter().map(|tensor| network(&tensor.subject.name)).collect();
    let Some(hidden) = hidden else { return vec![] };
    let mut keys: Vec<String> = vec![];
    let key_of = |network: &Network| key(metadata, *network);
    for key in hidden.iter().filter_map(|found| key_of(&found.as_ref()?.0)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let width = |key: String| {
        let units = metadata.u64(&key).ok().flatten().filter(|&units| units > 0)?;
        let part = |(tensor, found): (&Tensor, &Option<(Network, Matrix)>)| match found {
            Some((network, matrix)) if key_of(network).as_ref() == Some(&key) => {
                part(&tensor.subject.shape, units, *network, *matrix).map(Some)
            }
            _ => Some(None),
        };
        let parts = tensors.iter().zip(&hidden).map(part).collect::<Option<Vec<_>>>()?;
        let mut times = parts.iter().zip(&hidden).filter_map(|(part, found)| {
            let shared = found.as_ref()?.0 == Network::Shared;
            part.as_ref().filter(|_| shared).map(|part| part.times)
        });
        let first = times.next();
        times.all(|other| Some(other) == first).then_some(Width { key, units, parts })
    };
    keys.into_iter().filter_map(width).collect()
}

/// The kinds of feed-forward networks in a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Network {
    Dense,
    Routed,
    Shared,
}

/// The parts of a network that have hidden units.
#[derive(Clone, Copy, Debug)]
enum Matrix {
    Up, // and gate
    GateUp,
    Down,
    Bias,
}

/// Which network's hidden units a tensor has, if any; `None` for one that might have and is not known.
fn network(name: &str) -> Option<Option<(Network, Matrix)>> {
    let TensorName { layer, part: own } = TensorName::of(name);
    if layer.is_none() || !own.starts_with("ffn_") || OUTSIDE.iter().any(|prefix| own.starts_with(prefix)) {
        return Some(None);
    }
    let (stem, kind) = own.rsplit_once('.')?;
    let (stem, network) = match (stem.strip_suffix("_exps"), stem.strip_suffix("_shexp")) {
        (Some(stem), _) => (stem, Network::Routed),
        (_, Some(stem)) => (stem, Network::Shared),
        _ => (stem, Network::Dense),
    };
    match (stem, kind) {
        ("ffn_gate" | "ffn_up", "weight") => Some(Some((network, Matrix::Up))),
        ("ffn_gate_up", "weight") if network == Network::Routed => Some(Some((network, Matrix::GateUp))),
        ("ffn_down", "weight") => Some(Some((network, Matrix::Down))),
        ("ffn_gate" | "ffn_up", "bias") => Some(Some((network, Matrix::Bias))),
        ("ffn_down", "bias") => Some(None),
        _ => None,
    }
}

/// The key that says how wide a network is.
fn key(metadata: &Metadata, network: Network) -> Option<String> {
    let architecture = metadata.str("general.architecture").ok()??;
    let names: &[&str] = match network {
        Network::Dense => &["feed_forward_length"],
        Network::Routed => &["expert_feed_forward_length", "feed_forward_length"],
        Network::Shared => {
            &["expert_shared_feed_forward_length", "expert_feed_forward_length", "feed_forward_length"]
        }
    };
    let there = |name: &&str| metadata.get(&format!("{architecture}.{name}")).is_some();
    names.iter().find(|name| there(name)).map(|name| format!("{architecture}.{name}"))
}

/// The hidden units of a tensor of `shape`, where they are a multiple of the key's.
fn part(shape: &[u64], units: u64, network: Network, matrix: Matrix) -> Option<Part> {
    let (axis, joined) = match matrix {
        Matrix::Up => (Axis::Rows, 1),
        Matrix::GateUp => (Axis::Rows, 2),
        Matrix::Down | Matrix::Bias => (Axis::Columns, 1),
    };
    let len = match (axis, shape) {
        (Axis::Columns, [.., len]) | (Axis::Rows, [.., len, _]) => *len,
        _ => return None,
    };
    let whole = len > 0 && len.is_multiple_of(units * joined);
    let times = len / (units * joined);
    (whole && (times == 1 || network == Network::Shared)).then_some(Part { axis, times, joined })
}

/// The hidden units of a tensor before and after.
#[derive(Clone, Copy)]
struct Zeros {
    axis: Axis,
    from: u64,
    to: u64,
}

/// All tensors of a file, with these widths changed.
pub(crate) fn padded<'s>(tensors: &[Tensor<'s>], widened: &[(&Width, u64)]) -> Vec<Tensor<'s>> {
    let zeros = |i: usize| {
        widened.iter().find_map(|(width, to)| {
            let part = width.parts[i]?;
            Some((part, *to, Zeros { axis: part.axis, from: width.units * part.times, to: to * part.times }))
        })
    };
    let of = |(i, tensor): (usize, &Tensor<'s>)| {
        let Some((Part { axis, times, joined }, to, zeros)) = zeros(i) else { return tensor.clone() };
        let mut subject = tensor.subject.clone();
        let place = subject.shape.len() - if axis == Axis::Columns { 1 } else { 2 };
        subject.shape[place] = to * times * joined;
        subject.padding += subject.columns() - tensor.subject.columns();
        let contents = Padded { source: tensor.contents.clone(), subject: subject.clone(), zeros };
        Tensor { subject, contents: Arc::new(contents) }
    };
    tensors.iter().enumerate().map(of).collect()
}

/// The rows of a tensor that has more hidden units than its source.
struct Padded<'s> {
    source: Arc<dyn Rows + 's>,
    subject: Subject,
    zeros: Zeros,
}

impl Rows for Padded<'_> {
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let zero = vec![0f32; self.subject.columns() as usize];
        self.zeros.widen(rows, out, &zero, |rows, out| self.source.read(rows, out))
    }

    fn copy(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Some(format) = self.subject.stored else { return self.source.copy(rows, out) };
        let columns = self.subject.columns() as usize;
        let mut zero = vec![0u8; format.row_bytes(columns)];
        // All bytes zero are a block of zeros in every format; one that can be written has its own idea of it.
        if let Some(quantize) = format.quantize {
            quantize(&vec![0f32; columns], None, &mut zero);
        }
        self.zeros.widen(rows, out, &zero, |rows, out| self.source.copy(rows, out))
    }
}

impl Zeros {
    /// Rows of the wide tensor from those of the narrow one; elements or bytes, `zero` is a wide row of zeros.
    fn widen<T: Copy>(
        self,
        rows: Range<u64>,
        out: &mut [T],
        zero: &[T],
        read: impl Fn(Range<u64>, &mut [T]) -> Result<()>,
    ) -> Result<()> {
        match self.axis {
            Axis::Columns => self.widen_columns(rows, out, zero, read),
            Axis::Rows => self.widen_rows(rows, out, zero, read),
        }
    }

    fn widen_columns<T: Copy>(
        self,
        rows: Range<u64>,
        out: &mut [T],
        zero: &[T],
        read: impl Fn(Range<u64>, &mut [T]) -> Result<()>,
    ) -> Result<()> {
        let narrow = (zero.len() as u64 * self.from / self.to) as usize;
        let mut source = zero[..narrow].repeat((rows.end - rows.start) as usize);
        read(rows, &mut source)?;
        for (wide, narrow) in out.chunks_exact_mut(zero.len()).zip(source.chunks_exact(narrow)) {
            wide[..narrow.len()].copy_from_slice(narrow);
            wide[narrow.len()..].copy_from_slice(&zero[narrow.len()..]);
        }
        Ok(())
    }

    /// Each matrix of `from` rows is followed by rows of zeros.
    fn widen_rows<T: Copy>(
        self,
        rows: Range<u64>,
        out: &mut [T],
        zero: &[T],
        read: impl Fn(Range<u64>, &mut [T]) -> Result<()>,
    ) -> Result<()> {
        let mut row = rows.start;
        let mut out = out;
        while row < rows.end {
            let (matrix, inside) = (row / self.to, row % self.to);
            let end = if inside < self.from { self.from } else { self.to };
            let count = (end - inside).min(rows.end - row);
            let (piece, rest) = out.split_at_mut(count as usize * zero.len());
            if inside < self.from {
                let start = matrix * self.from + inside;
                read(start..start + count, piece)?;
            } else {
                piece.chunks_exact_mut(zero.len()).for_each(|row| row.copy_from_slice(zero));
            }
            (out, row) = (rest, row + count);
        }
        Ok(())
    }
}
