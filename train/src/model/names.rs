//! Export names that several architectures share: parts of stacked matrices.

use super::config::Config;
use super::roles::Piece;

/// Names of the two halves of a gated matrix.
pub(super) struct GatedNames {
    pub(super) gate: String,
    pub(super) up: String,
}

impl GatedNames {
    /// Gate and up along `axis` of a parameter of `shape`.
    pub(super) fn halves(self, shape: &[usize], axis: usize) -> Vec<Piece> {
        let half = shape[axis] / 2;
        vec![
            Piece::whole(self.gate, shape).part(axis, 0, half),
            Piece::whole(self.up, shape).part(axis, half, half),
        ]
    }
}

/// Queries, keys and values of a parameter of `shape`; `name` is given "q", "k" or "v".
pub(super) fn qkv_pieces(config: &Config, shape: &[usize], name: impl Fn(&str) -> String) -> Vec<Piece> {
    let query = config.head_count * config.head_length;
    let key = config.head_count_kv * config.head_length;
    [("q", 0, query), ("k", query, key), ("v", query + key, key)]
        .map(|(part, start, length)| Piece::whole(name(part), shape).part(0, start, length))
        .into()
}
