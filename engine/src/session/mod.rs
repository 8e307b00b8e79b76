//! An [`Engine`] is a loaded model; a [`Session`] is one conversation with it: tokens and their cache.
//!
//! Nothing above knows of tensors. A caller hands a session the whole token list it wants and the session
//! computes only what follows the longest common prefix with what it holds.

mod batch;
mod home;
mod limit;
mod measuring;
mod memory;
mod options;
mod tokens;
#[cfg(test)]
mod ask_tests;
#[cfg(test)]
mod made;
#[cfg(test)]
mod recurrent_tests;

pub use batch::{Batch, Sequence};
pub use limit::MemoryLimit;
pub use measuring::Measuring;
pub use memory::{CardPlan, MemoryPlan};
pub use options::{CapacityMode, DeviceChoice, Options, cache_format};

use crate::error::{Error, Result};
use crate::experts::Statistics;
use crate::gguf::{Bytes, Gguf, Metadata};
use crate::grammar::Vocabulary;
use crate::model::{Config, Cpu, Model, Plain, Pool, Row, Wants};
use crate::tokenizer::{Tokenizer, ends_of_metadata};
use batch::AnyBackend;
use home::{follow, on_card, read_from};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Rows of a step: more are no faster and their scratch would dwarf the model.
const MOST_ROWS: usize = 1 << 16;

/// A loaded model.
pub struct Engine {
    gguf: Gguf,
    model: Model,
    tokenizer: Option<Tokenizer>,
    ends: Vec<u32>, // of a file without a tokenizer, ascending
    vocabulary: OnceLock<Arc<Vocabulary>>,
    backend: AnyBackend,
    options: Options,
    memory: MemoryPlan,
    pool: Arc<Pool>,
    load_time: Duration,
}

impl Engine {
    /// Opens a GGUF file (the first part of a split one).
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or needs what is not computed here.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let start = Instant::now();
        Self::load(Gguf::open(&path)?, options, start).map_err(|error| error.in_file(path))
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn from_static(bytes: &'static [u8], options: Options) -> Result<Self> {
        let start = Instant::now();
        Self::load(Gguf::from_static(bytes)?, options, start)
    }

    /// Loads an opened file.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn from_gguf(gguf: Gguf, options: Options) -> Result<Self> {
        Self::load(gguf, options, Instant::now())
    }

    fn load(gguf: Gguf, options: Options, start: Instant) -> Result<Self> {
        if !(1..=MOST_ROWS).contains(&options.batch) {
            let batch = options.batch;
            return Err(Error::request(format!("a batch has 1 to {MOST_ROWS} rows, not {batch}")));
        }
        // An adapter that was trained on conversations brings the words between their turns.
        let template = options.adapters.iter().rev().filter(|adapter| adapter.scale != 0.0);
        let gguf = match template.filter_map(|adapter| adapter.chat_template.as_deref()).next() {
            Some(template) => gguf.with_metadata("tokenizer.chat_template", template),
            None => gguf,
        };
        // A large vocabulary takes longer than all tensors: it gets a thread of its own.
        let (model, tokenizer) = thread::scope(|scope| {
            let tokenizer = scope.spawn(|| load_tokenizer(gguf.metadata()));
            (
                Model::bind_with(&gguf, &options.adapters),
                tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        });
        let (mut model, tokenizer) = (model?, tokenizer?);
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocabulary_size() > model.config.vocab_size
        {
            let (found, rows) = (tokenizer.vocabulary_size(), model.config.vocab_size);
            return Err(Error::malformed(
                "key `tokenizer.ggml.tokens`",
                format!("at most {rows} tokens"),
                found,
            ));
        }
        let ends = match &tokenizer {
            Some(_) => vec![],
            None => ends_of_metadata(gguf.metadata(), model.config.vocab_size)?,
        };
        model.use_experts(options.experts_used, options.expert_threshold)?;
        follow(&mut model, &options)?;
        announce(&model);
        let (threads, isa) = options.hardware();
        let mut memory = MemoryPlan::new(&model, &options, isa)?;
        let card = match options.device {
            _ if options.plain => None,
            DeviceChoice::Cpu => None,
            DeviceChoice::Cuda(number) => Some(on_card((&gguf, &mut model), &options, &mut memory, number)?),
            DeviceChoice::Auto => on_card((&gguf, &mut model), &options, &mut memory, 0)
                .map_err(|error| tracing::warn!("computing on the CPU: {error}"))
                .ok(),
        };
        let backend = match card {
            Some(cuda) => AnyBackend::Cuda(Box::new(cuda)),
            None if options.plain => AnyBackend::Plain(Plain::new()),
            None => {
                let store = &mut model.weights.experts;
                let from = read_from(store, &gguf, isa, &options);
                store.provide(memory.experts.clone(), options.look_ahead, from)?;
                model.pack(isa)?;
                AnyBackend::Cpu(Cpu::new(isa, threads))
            }
        };
        let (pool, load_time) = (memory.pool(&options), start.elapsed());
        let vocabulary = OnceLock::new();
        Ok(Self { gguf, model, tokenizer, ends, vocabulary, backend, options, memory, pool, load_time })
    }

    /// The model's hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// Whether experts are read from a side file that `moewe pack` made.
    pub fn has_packed_experts(&self) -> bool {
        self.model.weights.experts.has_side_file()
    }

    /// Whether experts are read past the page cache.
    pub fn reads_are_direct(&self) -> bool {
        self.model.weights.experts.are_reads_direct()
    }

    /// The opened file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    /// Positions a session may have.
    pub fn context_length(&self) -> usize {
        self.memory.context_length
    }

    /// Where the memory goes.
    pub fn memory(&self) -> &MemoryPlan {
        &self.memory
    }

    /// The pages of all sequences.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What the expert store did so far; `None` for the plain backend, which has none.
    pub fn expert_statistics(&self) -> Option<Statistics> {
        self.model.weights.experts.statistics()
    }

    /// From opening the file to being ready.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// How the engine was loaded.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Threads at work, and the name of the instruction set or the card.
    pub fn hardware(&self) -> (usize, &str) {
        match &self.backend {
            AnyBackend::Cpu(cpu) => (cpu.threads(), cpu.isa().name()),
            AnyBackend::Plain(_) => (1, "plain"),
            AnyBackend::Cuda(cuda) => (1, cuda.device().name()),
        }
    }

    /// Bytes of weights that one token reads: all dense matrices and the chosen share of the experts.
    pub fn bytes_per_token(&self) -> u64 {
        self.model.bytes_per_token()
    }

    /// So many empty sequences that share steps.
    ///
    /// # Errors
    /// When the cache's format does not fit the model's head widths.
    pub fn batch(&self, sequences: usize) -> Result<Batch<'_>> {
        Batch::new(self, sequences)
    }

    /// Whether a row is one that this model can compute.
    fn admit(&self, row: &Row) -> Result<()> {
        let vocab_size = self.model.config.vocab_size;
        if row.token as usize >= vocab_size {
            return Err(Error::request(format!(
                "token {} is outside the vocabulary of {vocab_size}",
                row.token
            )));
        }
        if row.position >= self.context_length() {
            let limit = self.context_length();
            return Err(Error::request(format!(
                "position {} is outside the context of {limit}",
                row.position
            )));
        }
        Ok(())
    }

    /// An empty conversation.
    ///
    /// # Errors
    /// As [`Engine::batch`].
    pub fn session(&self) -> Result<Session<'_>> {
        Ok(Session {
            engine: self,
            batch: self.batch(1)?,
            tokens: vec![],
            rests: false,
            stop: Arc::default(),
            rows: vec![],
        })
    }
}

/// Has the system read what every token needs while the rest is set up: page by page a disk takes several times as long.
fn announce(model: &Model) {
    let dense: Vec<_> = model.dense_weights().cloned().collect();
    let read = move || dense.iter().for_each(Bytes::advise_will_need);
    // Without a thread for it pages come when they are touched.
    let _ = thread::Builder::new().name("moewe-announce".into()).spawn(read);
}

fn load_tokenizer(metadata: &Metadata) -> Result<Option<Tokenizer>> {
    match metadata.str("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => Ok(None),
        Some(_) => Tokenizer::from_metadata(metadata),
    }
}

/// One conversation.
pub struct Session<'a> {
    engine: &'a Engine,
    batch: Batch<'a>,
    tokens: Vec<u32>,
    rests: bool, // whether what follows the last token was asked
    stop: Arc<AtomicBool>,
    rows: Vec<Row>,
}

impl<'a> Session<'a> {
    /// The engine.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// Tokens computed so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions still free.
    pub fn room(&self) -> usize {
        self.engine.context_length() - self.tokens.len()
    }

    /// A flag that ends a running [`Session::extend`] between batches with [`Error::Stopped`].
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Makes `flag` the stop flag, for instance that of `os::interrupt`.
    pub fn stop_on(&mut self, flag: Arc<AtomicBool>) {
        self.stop = flag;
    }

    /// Whether the stop flag is up.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Forgets the tokens from `len` on and tells how many are left: fewer, where a recurrent state cannot go back so far.
    pub fn rewind(&mut self, len: usize) -> usize {
        let kept = self.batch.rewind(0, len);
        self.tokens.truncate(kept);
        kept
    }

    /// Makes the session hold exactly `tokens`, computing only what follows the longest common prefix (at least
    /// the last token). Returns how many tokens were computed; logits of the last are then in [`Session::logits`].
    ///
    /// # Errors
    /// When `tokens` is empty or longer than the context, or as [`Batch::step`].
    pub fn synchronise(&mut self, tokens: &[u32]) -> Result<usize> {
        self.synchronise_for(tokens, Wants::Logits)
    }

    /// [`Session::synchronise`] where the last token wants no more than this.
    ///
    /// # Errors
    /// As there.
    pub fn synchronise_for(&mut self, tokens: &[u32], last: Wants) -> Result<usize> {
        if tokens.is_empty() {
            return Err(Error::request("nothing to compute: give at least one token"));
        }
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let common = common.min(tokens.len() - 1);
        let kept = self.rewind(common);
        self.mark_turn(kept, tokens.len(), last);
        self.extend_for(&tokens[kept..], last)?;
        Ok(tokens.len() - kept)
    }

    /// Marks where recurrent states are worth keeping: where a turn begins, and before the last token of a prompt, which is
    /// always computed. Prompts may come in pieces, of which the last alone wants anything.
    fn mark_turn(&mut self, kept: usize, len: usize, last: Wants) {
        let is_answer = self.rests && len == kept + 1;
        if self.rests && !is_answer {
            self.batch.mark(0, kept);
        }
        if last.logits() && !is_answer {
            self.batch.mark(0, len - 1);
        }
    }

    /// Appends tokens; logits of the last are then in [`Session::logits`].
    ///
    /// # Errors
    /// When they do not fit the context, when stopped, or as [`Batch::step`]. What was computed stays.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<()> {
        self.extend_for(tokens, Wants::Logits)
    }

    /// [`Session::extend`] where the last token wants no more than this.
    ///
    /// # Errors
    /// As there.
    pub fn extend_for(&mut self, tokens: &[u32], last: Wants) -> Result<()> {
        self.extend_wanting(tokens, (Wants::Nothing, last), |_, _| Ok(()))
    }

    /// Appends tokens and hands the logits of each to `each(index, logits)`.
    ///
    /// # Errors
    /// As [`Session::extend`], or what `each` returns.
    pub fn extend_with_logits(
        &mut self,
        tokens: &[u32],
        each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.extend_wanting(tokens, (Wants::Logits, Wants::Logits), each)
    }

    fn extend_wanting(
        &mut self,
        tokens: &[u32],
        (each_wants, last_wants): (Wants, Wants),
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if tokens.len() > self.room() {
            return Err(Error::request(format!(
                "{} tokens do not fit: {} of {} positions are free",
                tokens.len(),
                self.room(),
                self.engine.context_length()
            )));
        }
        if self.engine.options.capacity == CapacityMode::Reference {
            return self.recompute(tokens, (each_wants, last_wants), each);
        }
        let batch = self.engine.options.batch;
        for (i, part) in tokens.chunks(batch).enumerate() {
            if self.is_stopped() {
                return Err(Error::Stopped);
            }
            let is_last = (i + 1) * batch >= tokens.len();
            self.compute(part, |row| if is_last && row + 1 == part.len() { last_wants } else { each_wants })?;
            if each_wants.logits() {
                (0..part.len()).try_for_each(|row| each(i * batch + row, self.batch.logits(row)))?;
            }
        }
        Ok(())
    }

    /// The original's way: everything from the first position as one batch.
    fn recompute(
        &mut self,
        tokens: &[u32],
        (each_wants, last_wants): (Wants, Wants),
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let known = self.tokens.len();
        let mut whole = std::mem::take(&mut self.tokens);
        whole.extend_from_slice(tokens);
        self.batch.rewind(0, 0);
        let last = whole.len() - 1;
        self.compute(&whole, |row| match row {
            _ if row == last => last_wants,
            _ if row >= known => each_wants,
            _ => Wants::Nothing,
        })?;
        if each_wants.logits() {
            (0..tokens.len()).try_for_each(|row| each(row, self.batch.logits(row)))?;
        }
        Ok(())
    }

    fn compute(&mut self, tokens: &[u32], wants: impl Fn(usize) -> Wants) -> Result<()> {
        let start = self.tokens.len();
        self.rows.clear();
        self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
            sequence: 0,
            position: start + i,
            token,
            wants: wants(i),
        }));
        if let Err(error) = self.batch.step(&self.rows) {
            self.rewind(start);
            return Err(error);
        }
        self.tokens.extend_from_slice(tokens);
        self.rests = self.rows.last().is_some_and(|row| row.wants.logits());
        Ok(())
    }

    /// The batch of this one sequence.
    pub(crate) fn batch(&self) -> &Batch<'a> {
        &self.batch
    }

    /// The same, to take what its last step brought.
    pub(crate) fn batch_mut(&mut self) -> &mut Batch<'a> {
        &mut self.batch
    }

    /// Logits of the last computed token, `(vocab_size)`.
    ///
    /// # Panics
    /// Before anything was computed, or where it wanted the best tokens and the logits were not fetched.
    pub fn logits(&self) -> &[f32] {
        self.batch.logits(self.batch.logit_rows() - 1)
    }
}
