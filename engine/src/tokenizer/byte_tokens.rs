//! Which token stands for each single byte: the ground that no text can fall through.

use super::merge::Merger;
use super::vocabulary::{NO_TOKEN, Vocabulary};
use crate::{Error, Result};

/// Token of each byte, with the unknown token where a vocabulary lacks one.
pub(super) struct ByteTokens {
    ids: Box<[u32; 256]>,
    whole_unknown: Option<u32>, // stands for any run of characters without a token, where there are no byte tokens
}

impl ByteTokens {
    /// Looks up the tokens under the names that `spell` gives them.
    pub(super) fn new(vocabulary: &Vocabulary, unknown: Option<u32>, spell: impl Fn(u8) -> String) -> Self {
        let own = |byte: usize| vocabulary.id_of(spell(byte as u8).as_bytes());
        let whole_unknown = unknown.filter(|_| (0..256).all(|byte| own(byte).is_none()));
        let id = |byte| own(byte).or(unknown).unwrap_or(NO_TOKEN);
        Self { ids: Box::new(std::array::from_fn(id)), whole_unknown }
    }

    pub(super) fn get(&self, byte: u8) -> Result<u32> {
        let id = self.ids[usize::from(byte)];
        if id != NO_TOKEN {
            return Ok(id);
        }
        let message =
            format!("the model's vocabulary has no token for byte 0x{byte:02X} and none for unknown text");
        Err(Error::request(message))
    }

    /// Appends what merging left of `text`: tokens, and bytes where a piece is none. Without byte tokens one unknown
    /// token stands for all neighbouring pieces that are none, as SentencePiece has it.
    pub(super) fn finish(&self, merger: &Merger, text: &str, out: &mut Vec<u32>) -> Result<()> {
        for symbol in merger.symbols() {
            if symbol.id != NO_TOKEN {
                out.push(symbol.id);
                continue;
            }
            if let Some(unknown) = self.whole_unknown {
                if out.last() != Some(&unknown) {
                    out.push(unknown);
                }
                continue;
            }
            for &byte in &text.as_bytes()[symbol.start as usize..symbol.end as usize] {
                out.push(self.get(byte)?);
            }
        }
        Ok(())
    }
}
