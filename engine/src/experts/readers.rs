//! Threads that bring experts from the file into slots: large positional reads, packed piece by piece.
//!
//! They know nothing of layers' turns: a matrix and its memory go in, the filled memory or an error comes out.

use super::Layers;
use super::Stack;
use super::plan::Plan;
use super::queue::{Job, Queue};
use crate::error::{Error, Result};
use crate::gguf::Bytes;
use crate::kernels::{Layout, MatrixRef};
use crate::os::mapping::Mapping;
use crate::os::read::{ReadBuffer, ReadFile};
use crate::simd::Isa;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

/// Reads under way at a time, an expert being up to three; they wait for the disk, not for a core.
pub const THREADS: usize = 4;

/// Bytes per read: large enough for a disk's full speed, small enough that packing finds them in a core's cache.
const PIECE: usize = 2 << 20;

/// What the threads' own buffers take, panels of more than a piece aside.
pub const READ_BUFFER_BYTES: u64 = (THREADS * PIECE) as u64;

/// A job that ended.
pub(super) struct Done {
    pub(super) job: Job,
    /// Bytes read.
    pub(super) outcome: Result<u64>,
}

/// The threads; dropping them ends them after their current job.
pub(super) struct Readers {
    queue: Arc<Queue>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(layers: &Arc<Layers>, plan: &Plan) -> Result<Self> {
        let files = Arc::new(Files::open(layers, plan.past_cache)?);
        let (finished, done) = mpsc::channel();
        let queue = Arc::new(Queue::default());
        let mut threads = vec![];
        for number in 0..THREADS {
            let reader = Reader {
                layers: layers.clone(),
                isa: plan.isa,
                files: files.clone(),
                buffer: ReadBuffer::new(largest_piece(layers))?,
            };
            let (jobs, finished) = (queue.clone(), finished.clone());
            let thread = thread::Builder::new().name(format!("moewe-read-{number}"));
            match thread.spawn(move || reader.serve(&jobs, &finished)) {
                Ok(handle) => threads.push(handle),
                // Fewer threads read as well, only slower.
                Err(_) if number > 0 => break,
                Err(error) => {
                    return Err(Error::request(format!("cannot start a thread that reads experts: {error}")));
                }
            }
        }
        Ok(Self { queue, done, threads })
    }

    /// Jobs that no thread has begun.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// A job that has ended already.
    pub(super) fn try_next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Waits for the next job to end; `None` when all threads are gone.
    pub(super) fn next(&self) -> Option<Done> {
        self.done.recv().ok()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.close();
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

/// The files that experts are in.
struct Files(Vec<(Arc<Mapping>, ReadFile)>);

impl Files {
    fn open(layers: &Layers, past_cache: bool) -> Result<Self> {
        let mut files: Vec<(Arc<Mapping>, ReadFile)> = vec![];
        for bytes in layers.iter().flatten().flat_map(|layer| layer.stacks()).flat_map(|stack| &stack.experts)
        {
            if let Some((mapping, _)) = bytes.file_position()
                && !files.iter().any(|(known, _)| Arc::ptr_eq(known, mapping))
            {
                files.push((mapping.clone(), ReadFile::open(mapping, past_cache)?));
            }
        }
        Ok(Self(files))
    }

    /// The bytes `range` of `bytes`, read where they are in a file.
    fn read<'b>(
        &self,
        bytes: &'b Bytes,
        range: Range<usize>,
        buffer: &'b mut ReadBuffer,
    ) -> Result<&'b [u8]> {
        let file = bytes.file_position().and_then(|(mapping, position)| {
            let (_, file) = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, mapping))?;
            Some((file, position + range.start as u64))
        });
        match file {
            Some((file, position)) => file.read(position, range.len(), buffer),
            None => Ok(&bytes[range]),
        }
    }
}

/// Rows that are read at once.
fn piece_rows(stack: &Stack) -> usize {
    (PIECE / stack.row_bytes()).max(1).next_multiple_of(Layout::ROWS_TOGETHER).min(stack.rows)
}

fn largest_piece(layers: &Layers) -> usize {
    let stacks = layers.iter().flatten().flat_map(|layer| layer.stacks());
    stacks.map(|stack| piece_rows(stack) * stack.row_bytes()).max().unwrap_or(0)
}

/// One thread's tools.
struct Reader {
    layers: Arc<Layers>,
    isa: Isa,
    files: Arc<Files>,
    buffer: ReadBuffer,
}

impl Reader {
    fn serve(mut self, queue: &Queue, finished: &Sender<Done>) {
        while let Some(mut job) = queue.next() {
            let outcome = self.load(&mut job).map_err(|source| Error::Expert {
                layer: job.layer,
                expert: job.expert,
                source: Box::new(source),
            });
            if finished.send(Done { job, outcome }).is_err() {
                return;
            }
        }
    }

    /// Fills the job's pages.
    fn load(&mut self, job: &mut Job) -> Result<u64> {
        let Some(stack) = self.layers[job.layer].as_ref().and_then(|layer| job.which.of(layer)) else {
            unreachable!("jobs are for matrices that exist")
        };
        let source = &stack.experts[job.expert as usize];
        let (row_bytes, piece_rows) = (stack.row_bytes(), piece_rows(stack));
        for start in (0..stack.rows).step_by(piece_rows) {
            let rows = start..stack.rows.min(start + piece_rows);
            let range = rows.start * row_bytes..rows.end * row_bytes;
            let bytes = self.files.read(source, range.clone(), &mut self.buffer)?;
            let piece = MatrixRef { rows: rows.len(), bytes, ..stack.matrix(job.expert) };
            Layout::of(self.isa, stack.format).pack(piece, &mut job.pages[range]);
        }
        Ok(source.len() as u64)
    }
}
