//! Finds tensors by name and checks their shapes, for `bind.rs` and for the rooms that a layer's halves are.
//!
//! What no one asked for is surplus: [`Binder::refuse_surplus`].

use super::adapter::Adapters;
use super::matrix::{Linear, Matrix, Norm, NormWeights};
use crate::cuda::Vector;
use crate::error::{Error, Result};
use crate::gguf::{Bytes, Gguf, TensorInfo, TensorName};
use crate::kernels::LowRank;
use crate::quant::INDICES;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::OnceLock;

/// Finds the tensors of a file, and remembers which.
pub(super) struct Binder<'a> {
    gguf: &'a Gguf,
    adapters: &'a Adapters<'a>,
    used: RefCell<HashSet<String>>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(gguf: &'a Gguf, adapters: &'a Adapters<'a>) -> Self {
        Self { gguf, adapters, used: RefCell::default() }
    }

    pub(super) fn ignore(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    fn find(&self, name: &str) -> Option<&TensorInfo> {
        let tensor = self.gguf.tensor(name)?;
        self.ignore(name);
        Some(tensor)
    }

    fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::malformed("tensors", format!("`{name}`"), "none of that name"))
    }

    /// A tensor's bytes after its shape (row length first, trailing ones dropped) has been checked.
    fn checked(&self, tensor: &TensorInfo, shape: &[usize]) -> Result<Bytes> {
        let trimmed = |shape: &[u64]| {
            let len = shape.iter().rposition(|&n| n != 1).map_or(0, |last| last + 1);
            shape[..len].to_vec()
        };
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        if trimmed(&tensor.shape) != trimmed(&expected) {
            let place = format!("tensor `{}`", tensor.name);
            return Err(Error::malformed(
                place,
                format!("shape {expected:?}"),
                format!("{:?}", tensor.shape),
            ));
        }
        Ok(self.gguf.bytes(tensor))
    }

    /// The same of weights: no products are made with whole numbers.
    fn checked_weights(&self, tensor: &TensorInfo, shape: &[usize]) -> Result<Bytes> {
        if *tensor.format == INDICES {
            let place = format!("tensor `{}`", tensor.name);
            return Err(Error::malformed(place, "weights", INDICES.name));
        }
        self.checked(tensor, shape)
    }

    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let tensor = self.require(name)?;
        let bytes = self.checked_weights(tensor, &[cols, rows])?;
        Ok(Matrix {
            format: tensor.format,
            rows,
            cols,
            bytes,
            packed: OnceLock::new(),
            home: OnceLock::new(),
        })
    }

    pub(super) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        let tensor = self.require(name)?;
        let bytes = self.checked(tensor, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        (tensor.format.dequantize)(&bytes, &mut values);
        Ok(values.into())
    }

    pub(super) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vector>> {
        self.gguf.tensor(name).map(|_| self.vector(name, &[len])).transpose()
    }

    pub(super) fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        Ok(Linear {
            name: name.to_owned(),
            matrix: self.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: self.optional_vector(&format!("{name}.bias"), rows)?,
            low_rank: self.adapters.of(&format!("{name}.weight"), (rows, cols, 1))?.pop().map(Box::new),
        })
    }

    pub(super) fn optional_linear(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Linear>> {
        let present = self.gguf.tensor(&format!("{name}.weight")).is_some();
        present.then(|| self.linear(name, rows, cols)).transpose()
    }

    pub(super) fn norm(&self, name: &str, kind: Norm, width: usize) -> Result<NormWeights> {
        let weight = self.vector(&format!("{name}.weight"), &[width])?;
        let bias = self.optional_vector(&format!("{name}.bias"), width)?;
        Ok(NormWeights { kind, weight, bias })
    }

    /// One matrix per head or expert out of a 3-D tensor.
    fn slices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        let tensor = self.require(name)?;
        let bytes = self.checked_weights(tensor, &[cols, rows, count])?;
        let len = bytes.len() / count.max(1);
        let slice = |i: usize| Matrix {
            format: tensor.format,
            rows,
            cols,
            bytes: bytes.slice(i * len..(i + 1) * len),
            packed: OnceLock::new(),
            home: OnceLock::new(),
        };
        Ok((0..count).map(slice).collect())
    }

    pub(super) fn refuse_surplus(&self, layers: usize) -> Result<()> {
        let used = self.used.borrow();
        let beyond = |name: &str| TensorName::of(name).layer.is_some_and(|layer| layer >= layers);
        let surplus =
            self.gguf.tensors().iter().find(|tensor| !used.contains(&tensor.name) && !beyond(&tensor.name));
        match surplus {
            None => Ok(()),
            Some(tensor) => Err(Error::unsupported(
                format!("tensor `{}` has no place in this architecture", tensor.name),
                "the file needs something that is not computed here",
            )),
        }
    }
}

/// Finds the tensors of one layer; names are without their `blk.N.`.
pub(in crate::model) struct LayerBinder<'a> {
    pub(super) binder: &'a Binder<'a>,
    pub(super) layer: usize,
    pub(super) norm: Norm,
    pub(super) width: usize, // of the residual stream
}

impl LayerBinder<'_> {
    /// The whole name.
    pub(super) fn name(&self, part: &str) -> String {
        TensorName::in_layer(self.layer, part).to_string()
    }

    /// Width of the residual stream.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.binder.gguf.tensor(&self.name(name)).is_some()
    }

    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.binder.matrix(&self.name(name), rows, cols)
    }

    pub(super) fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        self.binder.linear(&self.name(name), rows, cols)
    }

    pub(super) fn optional_linear(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Linear>> {
        self.binder.optional_linear(&self.name(name), rows, cols)
    }

    pub(super) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vector>> {
        self.binder.optional_vector(&self.name(name), len)
    }

    /// `rows` rows of `len` numbers.
    pub(super) fn optional_table(&self, name: &str, rows: usize, len: usize) -> Result<Option<Vector>> {
        let Some(tensor) = self.binder.find(&self.name(name)) else { return Ok(None) };
        let bytes = self.binder.checked(tensor, &[len, rows])?;
        let mut values = vec![0f32; rows * len];
        (tensor.format.dequantize)(&bytes, &mut values);
        Ok(Some(values.into()))
    }

    /// Numbers of this shape, the fastest axis first.
    pub(super) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vector> {
        self.binder.vector(&self.name(name), shape)
    }

    /// A norm of the layer's kind with weights that are no tensor of their own.
    pub(super) fn norm_with(&self, weight: Vec<f32>) -> NormWeights {
        NormWeights { kind: self.norm, weight: weight.into(), bias: None }
    }

    /// A norm of the layer's kind.
    pub(super) fn norm(&self, name: &str, width: usize) -> Result<NormWeights> {
        self.norm_of(self.norm, name, width)
    }

    pub(super) fn norm_of(&self, kind: Norm, name: &str, width: usize) -> Result<NormWeights> {
        self.binder.norm(&self.name(name), kind, width)
    }

    /// One matrix per head or expert out of a 3-D tensor.
    pub(super) fn slices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        self.binder.slices(&self.name(name), count, rows, cols)
    }

    /// A matrix cut into `count` of so many rows each.
    pub(super) fn parts(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Matrix>> {
        let whole = self.matrix(name, count * rows, cols)?;
        let len = whole.bytes.len() / count;
        let part = |i: usize| {
            let bytes = whole.bytes.slice(i * len..(i + 1) * len);
            Matrix { format: whole.format, rows, cols, bytes, packed: OnceLock::new(), home: OnceLock::new() }
        };
        Ok((0..count).map(part).collect())
    }

    /// What adapters add to each expert's matrix of a stack; nothing without any.
    pub(super) fn low_ranks(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<LowRank>> {
        self.binder.adapters.of(&self.name(&format!("{name}.weight")), (rows, cols, count))
    }
}
