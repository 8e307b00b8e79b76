//! Attention to chosen positions: a row's keys are copied out of the pages side by side, and are all that its queries see.
//!
//! A row has tens of query heads for its one key head, so that copying costs a hundredth of what they compute.

use super::super::job::Output;
use super::task::{Attended, AttentionKernel, AttentionTask, CachedPages, FEW, Heads, Queries, RowBlock};
use crate::threads::Team;
use std::cell::RefCell;
use std::sync::Arc;

/// Positions that rows look at.
pub(crate) struct Choice<F> {
    /// Of a block's row, rising.
    pub(crate) of: F,
    /// Bytes of a key in the cache.
    pub(crate) key_bytes: usize,
}

thread_local! {
    static GATHERED: RefCell<Vec<Arc<Vec<u8>>>> = RefCell::default();
}

/// [`attention`](super::attention) where each block is a row that sees only what was chosen for it.
///
/// # Panics
/// When blocks have more rows than one or overlap, there are several key heads, or values beside the keys.
pub(crate) fn attention_to<'a>(
    team: &Team,
    kernel: AttentionKernel,
    (blocks, heads): (&[RowBlock], Heads),
    attended: impl Fn(&RowBlock) -> Attended<'a> + Sync,
    choice: Choice<impl Fn(&RowBlock) -> &'a [u32] + Sync>,
    output: Output<'a>,
) {
    let Heads { keys, sharing, value_length } = heads;
    assert_eq!(keys, 1, "positions are chosen for one key head");
    assert!(blocks.iter().all(|block| block.rows == 1));
    assert!(blocks.windows(2).all(|pair| pair[0].row < pair[1].row));
    let output = output.places(sharing * value_length);
    // Where rows are few, heads share the work: never so few that they would be computed in another way.
    let pieces = if blocks.len() < team.threads() { (sharing / FEW).max(1) } else { 1 };
    team.run(blocks.len() * pieces, |i| {
        let (block, piece) = (&blocks[i / pieces], i % pieces);
        let heads = piece * sharing / pieces..(piece + 1) * sharing / pieces;
        let of = attended(block);
        assert!(of.values.is_none() && of.window.is_none());
        assert_eq!((of.queries.count, of.value_length), (sharing, value_length));
        let positions = (choice.of)(block);
        let mut pages = GATHERED.take();
        gather((of.keys, of.page_len), choice.key_bytes, positions, &mut pages);
        let queries = Queries {
            at: of.queries.at + heads.start * of.queries.stride,
            first: heads.start,
            count: heads.len(),
            ..of.queries
        };
        let of = Attended { keys: CachedPages { pages: &pages, at: 0 }, queries, ..of };
        let position = positions.len() - 1;
        let task = AttentionTask { of, head: 0, row: block.row, rows: 1, position, output };
        // SAFETY: each row is in one block only, heads are in one piece only, and the output came by value.
        unsafe { kernel(&task) };
        GATHERED.set(pages);
    });
}

/// Copies keys side by side into pages.
fn gather(
    (keys, page_len): (CachedPages<'_>, usize),
    key_bytes: usize,
    positions: &[u32],
    pages: &mut Vec<Arc<Vec<u8>>>,
) {
    pages.resize_with(positions.len().div_ceil(page_len).max(pages.len()), Arc::default);
    for (positions, page) in positions.chunks(page_len).zip(pages) {
        let page = Arc::get_mut(page).expect("nobody else has it");
        page.resize(page_len * key_bytes, 0);
        for (&position, place) in positions.iter().zip(page.chunks_exact_mut(key_bytes)) {
            let (number, at) = (position as usize / page_len, position as usize % page_len);
            place.copy_from_slice(&keys.page(number)[at * key_bytes..][..key_bytes]);
        }
    }
}
