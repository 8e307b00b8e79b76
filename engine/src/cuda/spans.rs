//! Starts the kernels that work on pieces of rows: norms, copies, products and rotations.

use super::arguments::{Argument, NormAt, Pieces};
use super::kernels::Kernels;
use super::launch::{NORM_SHARED, arguments};
use super::rows::Rows;
use super::written::What;

impl Kernels {
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
        let what = What::NormSpan { norm, x: x.address(), span };
        self.step("norm_span", (x.rows(), span.count), NORM_SHARED, a, what);
        x.touch();
    }

    /// Pieces of one buffer's rows to another's.
    pub fn copy_span(&self, x: &Rows, from: Pieces, out: &mut Rows, to: Pieces) {
        let what = What::other(&[x.address(), out.address()], &[out.address()]);
        self.copy_pieces(x, from, (out.address(), out.width()), to, what);
        out.touch();
    }

    fn copy_pieces(&self, x: &Rows, from: Pieces, (out, width): (u64, usize), to: Pieces, what: What) {
        assert!(from.width == to.width && from.count == to.count);
        let a =
            arguments![x.address(), x.width(), from.at, from.stride, out, width, to.at, to.stride, to.width];
        self.step("copy_span", (x.rows(), to.count), 0, a, what);
    }

    /// Pieces of a buffer's rows to others that do not overlap them.
    pub fn copy_within(&self, x: &mut Rows, from: Pieces, to: Pieces) {
        let what = What::other(&[x.address()], &[x.address()]);
        self.copy_pieces(x, from, (x.address(), x.width()), to, what);
        x.touch();
    }

    /// Pieces times what `factor` makes of another buffer's: 0 themselves, 1 their sigmoid, 2 Silu.
    pub fn multiply_span(&self, factor: i32, x: &Rows, from: Pieces, out: &mut Rows, to: Pieces) {
        assert!(from.width == to.width && from.count == to.count && out.rows() == x.rows());
        let a = arguments![
            x.address(),
            x.width(),
            from.at,
            from.stride,
            out.address(),
            out.width(),
            to.at,
            to.stride,
            to.width,
            factor
        ];
        let what = What::other(&[x.address(), out.address()], &[out.address()]);
        self.step("multiply_span", (out.rows(), to.count), 0, a, what);
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
        let what =
            What::Rope { angles: angles.address(), dims: angles.width(), is_neox, x: x.address(), span };
        self.step("rope", (x.rows(), span.count), 0, a, what);
        x.touch();
    }
}
