//! Starts kernels: a function for each, the only place that knows their arguments.
//!
//! Nothing here returns an error: the first failure stays until [`Kernels::take_failure`], and nothing is started after it.
//! Shapes are the callers' matter, who check them once when weights are bound; places that a step of rows gets wrong are
//! asserted.

use super::arguments::{Argument, AttentionBy, ChoicesAt, MatrixAt, NormAt, Pieces, RouteBy, StepAt};
use super::device::{Device, Function, Memory};
use super::modules::Modules;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::quant::{Format, Grain, shape_of};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Threads of a block.
const THREADS: u32 = 128;
/// Tokens of a strand of logits, and those that a row of [`Kernels::best`] has room for.
const STRAND: usize = 32;
const BEST: usize = 120;
/// Bytes of shared memory: as `*_SHARED` in the sources.
const NORM_SHARED: usize = 32;
const BEST_SHARED: usize = 48 + 8 * BEST;
const fn route_shared(experts: usize) -> usize {
    experts * 20
}
const fn capacity_shared(experts: usize) -> usize {
    experts * 4 + THREADS as usize * 4
}
const fn attention_shared(key_width: usize) -> usize {
    (key_width + 128 + 8) * 4
}

/// What a fetched row of [`Kernels::best`] says: ids, scores, the bound that they reach, and the sum of all weights. `None`
/// where there was no room.
pub fn tokens_of(row: &[f32]) -> Option<(&[u32], &[f32], f32, f32)> {
    let (head, tokens) = row.split_at(4);
    let (ids, scores) = tokens.split_at(BEST);
    let count = head[0].to_bits() as usize;
    Some((bytemuck::cast_slice(ids.get(..count)?), &scores[..count], head[1], head[2]))
}

/// Rows of a matrix that a block has, and inputs that it takes at once.
const ROWS: usize = 32;
const INPUTS: usize = 4;
/// Of the products of a format: a term for 1024 groups (`Tiles` in the source), for floats the sums of lanes.
fn products_shared(format: &Format) -> usize {
    shape_of(format)
        .map_or(ROWS * 33 * 4, |shape| 1024 * (32 / shape.group) * if shape.has_min { 16 } else { 8 })
}

/// Kernels of a model on a device.
pub struct Kernels {
    device: Device,
    modules: Modules,
    points: HashMap<u32, Memory>, // of formats with a grid, by their number
    failure: Mutex<Option<Error>>,
    is_replay: AtomicBool,
}

/// What becomes of a step's launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are started.
    Start,
    /// Nothing: a graph of them will be launched as a whole.
    Replay,
}

macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &[$(Argument::from($argument)),*] };
}

impl Kernels {
    /// Loads the kernels for these formats.
    ///
    /// # Errors
    /// When the driver refuses, or the device has no room.
    pub fn load(device: Device, formats: &[&'static Format]) -> Result<Self> {
        let modules = Modules::load(&device, formats.iter().copied())?;
        let mut points = HashMap::new();
        for format in formats {
            let grid = crate::quant::points_of(format);
            if !grid.is_empty() {
                points.insert(format.id, device.upload(bytemuck::cast_slice(&grid))?);
            }
        }
        Ok(Self { device, modules, points, failure: Mutex::default(), is_replay: AtomicBool::new(false) })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Says what is to become of launches from here on.
    pub fn set_mode(&self, mode: Mode) {
        self.is_replay.store(mode == Mode::Replay, Ordering::Relaxed);
    }

    /// Remembers a failure, unless there was one before.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Keeps what succeeded.
    pub fn ok<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.fail(error)).ok()
    }

    /// The first failure since the last time, if any.
    ///
    /// # Errors
    /// That.
    pub fn take_failure(&self) -> Result<()> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn run(&self, kernel: &Function, grid: (usize, usize), shared: usize, arguments: &[Argument]) {
        if grid.0 == 0 || grid.1 == 0 || self.is_replay.load(Ordering::Relaxed) || self.has_failed() {
            return;
        }
        // SAFETY: each function below gives its kernel what its signature says; buffers have the shapes that they are
        // asked to have, and those freed meanwhile are freed after a wait of the driver's.
        self.ok(unsafe { self.device.launch(kernel, grid, THREADS, shared, arguments) });
    }

    fn step(&self, name: &str, grid: (usize, usize), shared: usize, arguments: &[Argument]) {
        self.run(self.modules.step(name), grid, shared, arguments);
    }

    /// Gives rows another shape.
    pub fn resize(&self, x: &mut Rows, rows: usize, width: usize) {
        self.ok(x.resize(&self.device, rows, width));
    }

    /// Rows of a table of weights, one for each index, times `scale`, in place of `out` or added to it.
    pub fn embed(&self, table: MatrixAt, indices: u64, scale: f32, is_added: bool, out: &mut Rows) {
        let rows = out.rows();
        let a = arguments![
            table.bytes,
            table.rows,
            table.cols,
            table.is_panels,
            self.points(table.format),
            indices,
            scale,
            is_added,
            out.address()
        ];
        self.run(&self.modules.products(table.format).embed, (rows, 1), 0, a);
        out.touch();
    }

    /// Normalised rows.
    pub fn norm(&self, norm: NormAt, x: &Rows, out: &mut Rows) {
        let NormAt { weight, bias, epsilon, is_layer_norm } = norm;
        let a = arguments![x.address(), weight, bias, epsilon, is_layer_norm, out.address(), x.width()];
        self.step("norm_rows", (x.rows(), 1), NORM_SHARED, a);
        out.touch();
    }

    /// Normalised pieces, in place.
    pub fn norm_span(&self, norm: NormAt, x: &mut Rows, span: Pieces) {
        let NormAt { weight, bias, epsilon, is_layer_norm } = norm;
        let a = arguments![
            x.address(),
            weight,
            bias,
            epsilon,
            is_layer_norm,
            x.width(),
            span.at,
            span.width,
            span.stride
        ];
        self.step("norm_span", (x.rows(), span.count), NORM_SHARED, a);
        x.touch();
    }

    /// Pieces of one buffer's rows to another's.
    pub fn copy_span(&self, x: &Rows, from: Pieces, out: &mut Rows, to: Pieces) {
        assert!(from.width == to.width && from.count == to.count);
        let a = arguments![
            x.address(),
            x.width(),
            from.at,
            from.stride,
            out.address(),
            out.width(),
            to.at,
            to.stride,
            to.width
        ];
        self.step("copy_span", (out.rows(), to.count), 0, a);
        out.touch();
    }

    /// Pieces turned by their row's angles, in place.
    pub fn rope(&self, angles: &Rows, is_neox: bool, x: &mut Rows, span: Pieces) {
        let a = arguments![
            x.address(),
            angles.address(),
            angles.width(),
            is_neox,
            x.width(),
            span.at,
            span.width,
            span.stride
        ];
        self.step("rope", (x.rows(), span.count), 0, a);
        x.touch();
    }

    /// `x += added * scale`.
    pub fn add(&self, x: &mut Rows, added: &Rows, scale: f32) {
        self.step("add", (x.rows(), 1), 0, arguments![x.address(), added.address(), scale, x.width()]);
        x.touch();
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut Rows, factor: f32) {
        self.step("scale", (x.rows(), 1), 0, arguments![x.address(), factor, x.width()]);
        x.touch();
    }

    /// Zeros.
    pub fn clear(&self, x: &mut Rows) {
        self.step("clear", (x.rows(), 1), 0, arguments![x.address(), x.width()]);
        x.touch();
    }

    /// The rows of these numbers.
    pub fn select_rows(&self, x: &Rows, numbers: u64, out: &mut Rows) {
        let a = arguments![x.address(), numbers, out.address(), x.width()];
        self.step("select_rows", (out.rows(), 1), 0, a);
        out.touch();
    }

    /// The best tokens of each row of logits, at its temperature: see `best` in the sources. [`tokens_of`]
    /// tells what is in a row.
    pub fn best(&self, logits: &Rows, temperatures: u64, tops: &mut Rows, best: &mut Rows) {
        let (rows, strands) = (logits.rows(), logits.width().div_ceil(STRAND));
        self.resize(tops, rows, 2 * strands);
        self.resize(best, rows, 4 + 2 * BEST);
        let a = arguments![logits.address(), temperatures, tops.address(), logits.width()];
        self.step("strand_tops", (rows, strands.div_ceil(THREADS as usize)), 0, a);
        let a = arguments![logits.address(), temperatures, tops.address(), best.address(), logits.width()];
        self.step("best", (rows, 1), BEST_SHARED, a);
        best.touch();
    }

    /// The activation between up and down, in place in `up`.
    pub fn activate(&self, activation: Activation, gate: Option<&Rows>, up: &mut Rows) {
        let a = arguments![gate.map_or(0, Rows::address), up.address(), kind_of(activation), up.width()];
        self.step("activate", (up.rows(), 1), 0, a);
        up.touch();
    }

    /// The same for the slots of experts that have an address.
    pub fn activate_slots(
        &self,
        activation: Activation,
        gate: Option<&Rows>,
        up: &mut Rows,
        choices: ChoicesAt,
        addresses: u64,
    ) {
        let a = arguments![
            gate.map_or(0, Rows::address),
            up.address(),
            kind_of(activation),
            up.width(),
            choices.choices,
            addresses
        ];
        self.step("activate_slots", (up.rows(), 1), 0, a);
        up.touch();
    }

    /// `out *= sigmoid(weight)`, a weight a row.
    pub fn weigh_by_sigmoid(&self, weights: &Rows, out: &mut Rows) {
        let a = arguments![weights.address(), out.address(), out.width()];
        self.step("weigh_by_sigmoid", (out.rows(), 1), 0, a);
        out.touch();
    }

    /// Inputs as a product wants them: values, codes, extras.
    fn inputs(&self, format: &Format, x: &mut Rows) -> [u64; 3] {
        let Some(grain) = shape_of(format).map(|shape| shape.inputs) else { return [x.address(), 0, 0] };
        let coded = x.coded(&self.device, grain);
        let Some((codes, extras, is_current)) = self.ok(coded) else { return [0; 3] };
        if !is_current {
            let is_coarse = grain == Grain::Coarse;
            let a = arguments![x.address(), x.width(), is_coarse, codes, extras];
            self.step("quantize", (x.rows(), 1), 0, a);
        }
        [x.address(), codes, extras]
    }

    fn points(&self, format: &Format) -> u64 {
        self.points.get(&format.id).map_or(0, Memory::address)
    }

    /// `out[.., at..] = x * matrix + bias`, where the bias has an address.
    pub fn multiply(&self, matrix: MatrixAt, bias: u64, x: &mut Rows, out: &mut Rows, at: usize) {
        assert!(x.width() == matrix.cols && at + matrix.rows <= out.width() && out.rows() == x.rows());
        let [values, codes, extras] = self.inputs(matrix.format, x);
        let a = arguments![
            matrix.bytes,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            values,
            codes,
            extras,
            x.rows(),
            bias,
            out.address(),
            out.width(),
            at
        ];
        let at_once = if codes == 0 { 1 } else { INPUTS };
        let grid = (matrix.rows.div_ceil(ROWS), x.rows().div_ceil(at_once));
        let kernel = &self.modules.products(matrix.format).products;
        self.run(kernel, grid, products_shared(matrix.format), a);
        out.touch();
    }

    /// The products of experts that have an address, a slot for each choice; `which` is 0 for gate, 1 up, 2 down.
    pub fn multiply_experts(
        &self,
        (matrix, which, bias): (MatrixAt, usize, u64),
        choices: ChoicesAt,
        addresses: u64,
        x: &mut Rows,
        out: &mut Rows,
    ) {
        let slots = choices.rows * choices.used;
        assert!(x.width() == matrix.cols && out.width() == matrix.rows && out.rows() == slots);
        assert!(x.rows() == if which == 2 { slots } else { choices.rows });
        let [values, codes, extras] = self.inputs(matrix.format, x);
        let a = arguments![
            addresses,
            which,
            choices.choices,
            choices.used,
            which == 2,
            matrix.rows,
            matrix.cols,
            matrix.is_panels,
            self.points(matrix.format),
            values,
            codes,
            extras,
            bias,
            out.address()
        ];
        let grid = (matrix.rows.div_ceil(ROWS), slots);
        let kernel = &self.modules.products(matrix.format).experts;
        self.run(kernel, grid, products_shared(matrix.format), a);
        out.touch();
    }

    /// Chooses experts from router logits.
    pub fn route(&self, logits: &Rows, bias: u64, by: RouteBy, to: ChoicesAt) {
        let a = arguments![
            logits.address(),
            bias,
            by.experts,
            to.used,
            by.gating,
            by.groups,
            by.groups_used,
            by.groups_counted,
            by.normalise,
            by.scale,
            by.threshold,
            to.choices,
            to.scores
        ];
        self.step("route", (to.rows, 1), route_shared(by.experts), a);
    }

    /// Leaves out what exceeds an expert's capacity.
    pub fn route_capacity(&self, to: ChoicesAt, experts: usize, capacity: usize, threshold: f32) {
        let a = arguments![to.choices, to.scores, to.rows, experts, to.used, capacity, threshold];
        self.step("route_capacity", (1, 1), capacity_shared(experts), a);
    }

    /// Adds the kept slots of each row, the strongest choice first.
    pub fn combine(&self, added: &mut Rows, slots: &Rows, choices: ChoicesAt) {
        assert!(added.width() == slots.width());
        let a = arguments![
            added.address(),
            slots.address(),
            choices.choices,
            choices.scores,
            choices.used,
            added.width()
        ];
        self.step("combine", (added.rows(), 1), 0, a);
        added.touch();
    }

    /// Writes keys and values into the sequences' pages.
    pub fn store(&self, qkv: &Rows, keys: Pieces, values: Pieces, step: StepAt, layer: usize) {
        let a = arguments![
            qkv.address(),
            qkv.width(),
            keys.at,
            keys.count,
            keys.width,
            values.at,
            values.width,
            step.positions,
            step.sequences,
            step.tables,
            layer,
            step.max_pages,
            step.cache_format
        ];
        self.step("store", (qkv.rows(), keys.count), 0, a);
    }

    /// Attention of the rows over their sequences.
    pub fn attention(&self, queries: &Rows, by: AttentionBy, step: StepAt, out: &mut Rows) {
        let AttentionBy { queries: q, kv_heads, value_width, scale, window, sinks, layer, values_in_keys } =
            by;
        let a = arguments![
            queries.address(),
            queries.width(),
            q.at,
            q.count,
            q.width,
            q.stride,
            kv_heads,
            value_width,
            scale,
            window,
            sinks,
            step.positions,
            step.sequences,
            step.tables,
            layer,
            step.max_pages,
            values_in_keys,
            step.cache_format,
            out.address()
        ];
        self.step("attention", (out.rows(), q.count), attention_shared(q.width), a);
        out.touch();
    }
}

/// The kernel's number of an activation.
fn kind_of(activation: Activation) -> i32 {
    match activation {
        Activation::Silu => 0,
        Activation::GeluErf => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::SwigluOai => 4,
    }
}
