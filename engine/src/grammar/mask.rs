//! A bit for every token: whether it may come.

use toktrie::SimpleVob;

/// Tokens that may come.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask(SimpleVob);

impl Mask {
    pub(super) fn new(bits: SimpleVob) -> Self {
        Self(bits)
    }

    /// Nothing of `size` tokens.
    pub fn none(size: usize) -> Self {
        Self(SimpleVob::alloc(size))
    }

    /// Allows one more of its tokens.
    pub fn allow(&mut self, token: u32) {
        if (token as usize) < self.0.len() {
            self.0.allow_token(token);
        }
    }

    /// Allows a token no more.
    pub(super) fn forbid(&mut self, token: u32) {
        if (token as usize) < self.0.len() {
            self.0.disallow_token(token);
        }
    }

    /// Whether a token may come.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// The tokens that may come, ascending.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }

    /// Gives all other tokens the score -infinity.
    pub fn exclude_others(&self, scores: &mut [f32]) {
        let words = self.0.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (scores, word) in scores.chunks_mut(u32::BITS as usize).zip(words) {
            match word {
                0 => scores.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, score) in scores.iter_mut().enumerate() {
                        *score = if word >> bit & 1 == 1 { *score } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
    }
}
