//! Which documents are held out for validation: a share of the tokens, not of the documents, which differ in length.
//!
//! A document's hash as a fraction of its range decides, so that a document stays on its side whatever else the corpus
//! holds. Only where that would hold out a share that is off by more than a tenth (few documents, or long ones), the
//! documents are taken in the order of their hashes until the share is reached, and of the last one the end only.

/// A document that is told apart by its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document {
    pub hash: u64,   // of the content
    pub tokens: u32, // with the one that ends it
    pub bytes: u32,  // of its text
}

/// The held-out part of a corpus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Border {
    below: u128,                 // hashes of documents that are held out
    cut: Option<(usize, usize)>, // the document whose end is held out too, and how many tokens that is
}

impl Border {
    /// The border that holds out `share` of the tokens of `documents`; less than `row` tokens are no matter.
    pub(super) fn find(documents: &[Document], share: f64, row: usize) -> Self {
        let all: u64 = documents.iter().map(|document| u64::from(document.tokens)).sum();
        let wanted = (all as f64 * share).round() as u64;
        let own = Self { below: (share * 64f64.exp2()) as u128, cut: None };
        let held_out: u64 = documents.iter().filter(|d| own.holds(d)).map(|d| u64::from(d.tokens)).sum();
        if held_out.abs_diff(wanted) <= wanted / 10 {
            own
        } else {
            Self::in_order(documents, wanted, row as u64)
        }
    }

    fn in_order(documents: &[Document], wanted: u64, row: u64) -> Self {
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_unstable_by_key(|&index| documents[index].hash);
        let (mut left, mut below) = (wanted, 0);
        for index in order {
            let Document { hash, tokens, .. } = documents[index];
            let tokens = u64::from(tokens);
            let is_over = tokens > left;
            if is_over && tokens - left >= row {
                return Self { below, cut: (left >= row).then_some((index, left as usize)) };
            }
            below = u128::from(hash) + 1;
            left = left.saturating_sub(tokens);
            if is_over {
                break;
            }
        }
        Self { below, cut: None }
    }

    fn holds(&self, document: &Document) -> bool {
        u128::from(document.hash) < self.below
    }

    /// Tokens at the end of the document of this number that are held out.
    pub(super) fn held_out(&self, number: usize, document: &Document) -> usize {
        match self.cut {
            _ if self.holds(document) => document.tokens as usize,
            Some((cut, tokens)) if cut == number => tokens,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn documents(lengths: impl IntoIterator<Item = u32>) -> Vec<Document> {
        let mut random = Random::at(4, &[]);
        let document = |tokens| Document { hash: random.bits(), tokens, bytes: 4 * tokens };
        lengths.into_iter().map(document).collect()
    }

    fn tokens(documents: &[Document], border: Border) -> usize {
        documents.iter().enumerate().map(|(number, document)| border.held_out(number, document)).sum()
    }

    #[test]
    fn the_share_is_one_of_tokens() {
        let uneven = (0..4000).map(|i| if i % 100 == 0 { 40_000 } else { 20 });
        for (documents, row) in
            [(documents(uneven), 64), (documents([90_000]), 64), (documents([70_000; 5]), 512)]
        {
            let all: usize = documents.iter().map(|document| document.tokens as usize).sum();
            for share in [0.01, 0.1, 0.5, 0.9] {
                let found = tokens(&documents, Border::find(&documents, share, row)) as f64;
                let wanted = all as f64 * share;
                assert!((found - wanted).abs() <= (wanted / 10.0).max(row as f64), "{found} for {wanted}");
            }
            assert_eq!(tokens(&documents, Border::find(&documents, 0.0, row)), 0);
            assert_eq!(tokens(&documents, Border::find(&documents, 1.0, row)), all);
        }
    }

    #[test]
    fn many_documents_stay_on_their_side_whatever_else_there_is() {
        let all = documents(std::iter::repeat_n(30, 60_000));
        let (few, many) = (Border::find(&all[..50_000], 0.05, 64), Border::find(&all, 0.05, 64));
        assert_eq!(few, many);
        assert_eq!(few.cut, None);
    }

    #[test]
    fn only_what_is_longer_than_a_row_is_cut() {
        let short = documents([30; 20]);
        assert_eq!(Border::find(&short, 0.1, 64).cut, None);
        let one = documents([1000]);
        assert_eq!(Border::find(&one, 0.2, 64).held_out(0, &one[0]), 200);
        assert_eq!(tokens(&one, Border::find(&one, 0.01, 64)), 0, "ten tokens are no row");
    }
}
