//! Long texts in pieces that many threads encode, cut where no tokenizer of ours joins words. Nothing is copied.

/// Cuts `text` into pieces of about `size` bytes after line breaks between two lines that neither end nor begin with
/// white space: there every rule of [`PRE_TOKENIZERS`](super::tokenizer::PRE_TOKENIZERS) begins a new word.
pub fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::with_capacity(text.len() / size.max(1) + 1);
    let mut rest = text;
    while let Some(end) = boundary(rest, size) {
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// The first such line break that ends `size` bytes or more.
fn boundary(text: &str, size: usize) -> Option<usize> {
    let start = size.max(1);
    let breaks = text.as_bytes().get(start..)?.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    breaks
        .map(|(at, _)| start + at)
        .find(|&at| {
            let (before, after) = (text[..at].chars().next_back(), text[at + 1..].chars().next());
            before.is_some_and(|c| !c.is_whitespace()) && after.is_some_and(|c| !c.is_whitespace())
        })
        .map(|at| at + 1)
}
