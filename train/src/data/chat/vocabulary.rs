//! The tokenizer of a model that is fine-tuned: text to ids with the bytes that each stands for.
//!
//! The crate `tokenizers` does the work, on any tokenizer.json. Control tokens that a text spells count, except where a
//! message spelled them: there they are read as text, as the runtime reads them.

use super::super::encoder::read;
use crate::{Error, Result};
use serde_json::Value as Json;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokenizers::{AddedToken, Tokenizer};

/// Stands before a stretch of text that does not begin its text: some tokenizers put a space before what does. No
/// character, so no text has it.
const NOT_FIRST: char = '\u{fffff}';

/// The tokenizer in a model's folder.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    plain: OnceLock<Tokenizer>, // the same, which knows no control tokens
    control: HashSet<u32>,
    begin: Vec<u32>, // what stands before a text that no template wrote
    bos: String,     // for templates; may be empty
    eos: Option<(u32, String)>,
    ends: Vec<u32>, // that end an answer, as the model's files say
    added: Vec<String>,
    path: PathBuf,
}

/// A text as ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Encoded {
    pub tokens: Vec<u32>,
    pub places: Vec<Range<usize>>, // the bytes of the text that each token stands for
    pub spells_control: bool,      // a message has the text of a control token
}

impl Vocabulary {
    /// Reads tokenizer.json of `folder`, and which tokens begin and end texts from the files beside it.
    ///
    /// # Errors
    /// Files that are missing or broken.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(read(&path)?);
        let mut tokenizer =
            tokenizer.map_err(|error| Error::malformed(&path, "", "a tokenizer of Hugging Face", error))?;
        // Some files were saved with the settings of a batch.
        let refused = |error| Error::malformed(&path, "truncation", "a tokenizer without", error);
        tokenizer.with_truncation(None).map_err(refused)?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(false);
        let begin = begin(&tokenizer).map_err(|error| failed(&path, error))?;
        // Nothing is to be added, and some take white space off the places of tokens.
        tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let files = Files::read(folder)?;
        let added = tokenizer.get_added_tokens_decoder();
        let control = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        let eos = files.token("eos_token", "eos_token_id", &tokenizer);
        let id = |text: &String| tokenizer.token_to_id(text);
        let eos = eos.and_then(|text| Some((id(&text)?, text)));
        let mut ends = files.ends();
        ends.extend(eos.as_ref().map(|(id, _)| *id));
        let bos = files.token("bos_token", "bos_token_id", &tokenizer).unwrap_or_default();
        Ok(Self { tokenizer, plain: OnceLock::new(), control, begin, bos, eos, ends, added: vec![], path })
    }

    /// Gives ids to control tokens that are none yet.
    pub(super) fn append(&mut self, tokens: &[String]) -> Result<()> {
        let added = tokens.iter().map(|text| AddedToken::from(text.as_str(), true));
        self.tokenizer.add_special_tokens(added).map_err(|error| failed(&self.path, error))?;
        self.control.extend(tokens.iter().filter_map(|text| self.tokenizer.token_to_id(text)));
        self.added.extend_from_slice(tokens);
        Ok(())
    }

    /// Control tokens that were given ids, in the order of these.
    pub fn appended(&self) -> impl Iterator<Item = (u32, &str)> {
        self.added.iter().filter_map(|text| Some((self.tokenizer.token_to_id(text)?, text.as_str())))
    }

    /// tokenizer.json with the tokens that were appended; `None` where the model's own file does.
    ///
    /// # Errors
    /// A file that was changed meanwhile.
    pub fn changed_file(&self) -> Result<Option<String>> {
        if self.added.is_empty() {
            return Ok(None);
        }
        let refused = |error| Error::malformed(&self.path, "", "a tokenizer of Hugging Face", error);
        let mut whole = Tokenizer::from_bytes(read(&self.path)?).map_err(refused)?;
        let added = self.added.iter().map(|text| AddedToken::from(text.as_str(), true));
        whole.add_special_tokens(added).map_err(refused)?;
        whole.to_string(true).map(Some).map_err(refused)
    }

    /// Number of ids, special ones included: one more than the highest.
    pub fn size(&self) -> usize {
        let highest = self.tokenizer.get_vocab(true).into_values().max();
        highest.map_or(0, |id| id as usize + 1)
    }

    /// The text that begins texts, for templates; empty where there is none.
    pub(super) fn bos(&self) -> &str {
        &self.bos
    }

    /// The text that ends texts, for templates; empty where there is none.
    pub(super) fn eos(&self) -> &str {
        self.eos.as_ref().map_or("", |(_, text)| text)
    }

    /// Whether the files of the model say that this token ends an answer.
    pub(super) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// Whether it is a control token.
    pub(super) fn is_control(&self, token: u32) -> bool {
        self.control.contains(&token)
    }

    /// Whether `text` is one token.
    pub(super) fn is_token(&self, text: &str) -> bool {
        self.tokenizer.encode_fast(text, false).is_ok_and(|encoding| encoding.get_ids().len() == 1)
    }

    /// The texts of all control tokens.
    pub(super) fn control_tokens(&self) -> Vec<String> {
        let mut tokens: Vec<_> = self.tokenizer.get_added_tokens_decoder().into_iter().collect();
        tokens.retain(|(_, token)| token.special && !token.content.is_empty());
        tokens.sort_unstable_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token.content).collect()
    }

    /// The ids of `text`, of which `contents` stood in messages.
    pub(super) fn encode(&self, text: &str, contents: &[Range<usize>]) -> Result<Encoded> {
        let mut encoded = self.encode_with(&self.tokenizer, text)?;
        let is_said = |place: &Range<usize>| {
            let after = contents.partition_point(|content| content.end <= place.start);
            contents.get(after).is_some_and(|content| content.start < place.end)
        };
        let tokens = encoded.tokens.iter().zip(&encoded.places);
        let control: Vec<_> =
            tokens.filter(|(id, _)| self.is_control(**id)).map(|(&id, place)| (id, place.clone())).collect();
        if control.iter().any(|(_, place)| is_said(place)) {
            encoded = self.encode_around(text, control.iter().filter(|(_, place)| !is_said(place)))?;
        }
        Ok(encoded)
    }

    /// The ids of `text` where only the tokens of `control` are more than text.
    fn encode_around<'c>(
        &self,
        text: &str,
        control: impl Iterator<Item = &'c (u32, Range<usize>)>,
    ) -> Result<Encoded> {
        let plain = self.plain()?;
        let mut all = Encoded { spells_control: true, ..Encoded::default() };
        let mut done = 0;
        let stretch = |range: Range<usize>, all: &mut Encoded| -> Result<()> {
            if range.is_empty() {
                return Ok(());
            }
            let mut piece = String::new();
            if range.start > 0 {
                piece.push(NOT_FIRST);
            }
            let skipped = piece.len();
            piece.push_str(&text[range.clone()]);
            let more = self.encode_with(plain, &piece)?;
            let more = more.tokens.into_iter().zip(more.places).filter(|(_, place)| place.end > skipped);
            for (token, place) in more {
                all.tokens.push(token);
                all.places.push(range.start + place.start - skipped..range.start + place.end - skipped);
            }
            Ok(())
        };
        for (id, place) in control {
            stretch(done..place.start, &mut all)?;
            all.tokens.push(*id);
            all.places.push(place.clone());
            done = place.end;
        }
        stretch(done..text.len(), &mut all)?;
        Ok(all)
    }

    /// The tokenizer that knows no control tokens, but [`NOT_FIRST`].
    fn plain(&self) -> Result<&Tokenizer> {
        if let Some(plain) = self.plain.get() {
            return Ok(plain);
        }
        let mut plain = self.tokenizer.clone();
        plain.set_encode_special_tokens(true);
        let token = AddedToken::from(NOT_FIRST.to_string(), false).normalized(false);
        plain.add_tokens([token]).map_err(|error| failed(&self.path, error))?;
        Ok(self.plain.get_or_init(|| plain))
    }

    fn encode_with(&self, tokenizer: &Tokenizer, text: &str) -> Result<Encoded> {
        let encoding = tokenizer.encode(text, false).map_err(|error| failed(&self.path, error))?;
        let places = encoding.get_offsets().iter().map(|&(from, to)| from..to).collect();
        Ok(Encoded { tokens: encoding.get_ids().to_vec(), places, spells_control: false })
    }

    /// The ids of a text that no template wrote: with what this tokenizer puts before texts, and an end token unless it
    /// has one. The end becomes part of the text.
    pub(super) fn encode_text(&self, text: &mut String) -> Result<Encoded> {
        let Some((eos, end)) = &self.eos else {
            let place = "tokenizer_config.json";
            return Err(Error::malformed(&self.path, place, "an eos_token, which ends a text", "none"));
        };
        let mut encoded = self.encode(text, &[])?;
        if !encoded.tokens.starts_with(&self.begin) {
            encoded.tokens.splice(0..0, self.begin.iter().copied());
            encoded.places.splice(0..0, self.begin.iter().map(|_| 0..0));
        }
        if !encoded.tokens.last().is_some_and(|&last| self.is_end(last)) {
            encoded.tokens.push(*eos);
            encoded.places.push(text.len()..text.len() + end.len());
            text.push_str(end);
        }
        Ok(encoded)
    }
}

fn failed(path: &Path, error: impl ToString) -> Error {
    Error::malformed(path, "encode", "a token for every text", error)
}

/// The ids that the tokenizer puts before a text.
fn begin(tokenizer: &Tokenizer) -> tokenizers::Result<Vec<u32>> {
    let encoding = tokenizer.encode("a", true)?;
    let ids = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask());
    Ok(ids.take_while(|(_, is_added)| **is_added == 1).map(|(id, _)| *id).collect())
}

/// What the files beside tokenizer.json say about tokens.
struct Files(Vec<Json>); // those that are there

impl Files {
    const NAMES: [&str; 4] =
        ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"];

    fn read(folder: &Path) -> Result<Self> {
        let paths = Self::NAMES.map(|name| folder.join(name)).into_iter().filter(|path| path.is_file());
        let parse = |path: PathBuf| {
            serde_json::from_slice(&read(&path)?).map_err(|error| Error::malformed(&path, "", "JSON", error))
        };
        paths.map(parse).collect::<Result<_>>().map(Self)
    }

    /// The text of a token with a role: under its name, else that of the id.
    fn token(&self, name: &str, id: &str, tokenizer: &Tokenizer) -> Option<String> {
        let text = |file: &Json| {
            let token = &file[name];
            token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
        };
        let of_id = |file: &Json| {
            let id = file[id].as_u64().or_else(|| file[id][0].as_u64())?;
            tokenizer.id_to_token(id.try_into().ok()?)
        };
        // A file that says `null` means that there is none.
        match self.0.iter().find(|file| file.get(name).is_some()) {
            Some(file) => text(file),
            None => self.0.iter().find_map(of_id),
        }
    }

    /// All tokens that are said to end an answer.
    fn ends(&self) -> Vec<u32> {
        let ids = self.0.iter().map(|file| &file["eos_token_id"]);
        let ids = ids.flat_map(|ids| ids.as_array().map_or(std::slice::from_ref(ids), Vec::as_slice));
        ids.filter_map(|id| id.as_u64()?.try_into().ok()).collect()
    }
}
