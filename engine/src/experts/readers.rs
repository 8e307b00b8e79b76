//! Threads that bring experts from the file into slots: large positional reads, packed piece by piece.
//!
//! They know nothing of layers' turns: a piece of a slot goes in, the filled memory or an error comes out.

use super::activity::Activity;
use super::files::Files;
use super::plan::Plan;
use super::queue::{Job, Queue};
use super::slots::{SlotShape, Which};
use super::statistics::Cost;
use super::{ExpertLayer, Layers, Stack};
use crate::error::{Error, Result};
use crate::kernels::{Layout, MatrixRef};
use crate::os::read::ReadBuffer;
use crate::simd::Isa;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Reads under way at a time; they wait for the disk, not for a core. Disks give their full rate from about four mebibytes
/// under way on, which the pieces of one expert mostly are.
pub const THREADS: usize = 8;

/// Bytes per read: large enough for a disk's full speed, small enough that an expert is read by several threads and that
/// packing finds them in a core's cache.
pub const PIECE: usize = 1 << 20;

/// What the threads' own buffers take, panels of more than a piece aside.
pub const READ_BUFFER_BYTES: u64 = (THREADS * PIECE) as u64;

/// A job that ended.
pub(super) struct Done {
    pub(super) job: Job,
    pub(super) outcome: Result<Cost>,
}

/// The threads; dropping them ends them after their current job.
pub(super) struct Readers {
    queue: Arc<Queue>,
    activity: Arc<Activity>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(layers: &Arc<Layers>, plan: &Plan, files: Arc<Files>) -> Result<Self> {
        let (finished, done) = mpsc::channel();
        let (queue, activity) = (Arc::new(Queue::default()), Arc::new(Activity::default()));
        let mut threads = vec![];
        for number in 0..THREADS {
            let reader = Reader {
                layers: layers.clone(),
                isa: plan.isa,
                files: files.clone(),
                activity: activity.clone(),
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
        Ok(Self { queue, activity, done, threads })
    }

    /// Jobs that no thread has begun.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// When they read.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
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

/// Rows that are read at once.
pub(super) fn piece_rows(stack: &Stack) -> usize {
    (PIECE / stack.row_bytes()).max(1).next_multiple_of(Layout::ROWS_TOGETHER).min(stack.rows)
}

pub(super) fn largest_piece(layers: &Layers) -> usize {
    let stacks = layers.iter().flatten().flat_map(|layer| layer.stacks());
    stacks.map(|stack| piece_rows(stack) * stack.row_bytes()).max().unwrap_or(0)
}

/// The pieces in which a slot of the layer is filled, as lengths one after the other: from a side file as they lie there,
/// else whole rows, those of a matrix with what lies behind it.
pub(super) fn pieces(layer: &ExpertLayer, has_side_file: bool) -> Vec<usize> {
    let shape = SlotShape::of(layer);
    if has_side_file {
        let starts = (0..shape.len()).step_by(PIECE);
        return starts.map(|start| PIECE.min(shape.len() - start)).collect();
    }
    let mut starts = vec![];
    for which in Which::ALL {
        let Some(stack) = which.of(layer) else { continue };
        starts.extend(shape.range(which).step_by(piece_rows(stack) * stack.row_bytes()));
    }
    starts.push(shape.len());
    starts.windows(2).map(|edges| edges[1] - edges[0]).collect()
}

/// One thread's tools.
struct Reader {
    layers: Arc<Layers>,
    isa: Isa,
    files: Arc<Files>,
    activity: Arc<Activity>,
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
    fn load(&mut self, job: &mut Job) -> Result<Cost> {
        let start = Instant::now();
        if self.files.has_side_file() {
            let _reading = self.activity.begin();
            self.files.fill((job.layer, job.expert), job.at, &mut job.pages)?;
            return Ok(Cost { bytes: job.pages.len() as u64, time: start.elapsed() });
        }
        let layer = self.layers[job.layer].as_ref().expect("jobs are for layers with experts");
        let (which, place) = SlotShape::of(layer).at(job.at);
        let stack = which.of(layer).expect("jobs are for matrices that exist");
        let bytes = (place.end - job.at).min(job.pages.len());
        let range = job.at - place.start..job.at - place.start + bytes;
        let read = {
            let _reading = self.activity.begin();
            self.files.read(&stack.experts[job.expert as usize], range, &mut self.buffer)?
        };
        let time = start.elapsed();
        let rows = MatrixRef { rows: bytes / stack.row_bytes(), bytes: read, ..stack.matrix(job.expert) };
        Layout::of(self.isa, stack.format).pack(rows, &mut job.pages[..bytes]);
        self.activity.packed(start.elapsed() - time);
        Ok(Cost { bytes: bytes as u64, time })
    }
}
