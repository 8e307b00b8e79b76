//! Data-parallel training: several processes with equal weights, each with its own part of every batch.
//!
//! Existing launchers start the ranks ([`launch`]); a [`Collective`] adds up what they computed: MPI between CPUs,
//! NCCL between GPUs. How a batch is divided and what is summed is the trainer's business.

pub mod buckets;
#[cfg(any(test, feature = "nccl"))]
mod exchange;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod single;

pub use launch::Launch;

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// What all ranks do together. Every rank makes the same calls with equal lengths in the same order; sums are
/// bit-equal on all of them and added in an order that depends on nothing but the number of ranks.
pub trait Collective: Send + Sync {
    /// Replaces every value by its sum over the ranks.
    ///
    /// # Errors
    /// What the backend reports: a rank that is gone, a device that fails.
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;

    /// Replaces every value by its sum over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum_f32`].
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces the elements of an F32 tensor by their sum over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum_f32`], and when the tensor is not of F32.
    fn sum_tensor(&self, tensor: &mut Tensor) -> Result<()> {
        let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
        self.sum_f32(&mut values)?;
        *tensor = Tensor::from_vec(values, tensor.shape(), tensor.device())?;
        Ok(())
    }

    /// Gives every rank the bytes of rank 0.
    ///
    /// # Errors
    /// As [`Collective::sum_f32`].
    fn broadcast_bytes(&self, bytes: &mut Vec<u8>) -> Result<()>;

    /// Returns once every rank has come here.
    ///
    /// # Errors
    /// As [`Collective::sum_f32`].
    fn barrier(&self) -> Result<()>;

    /// Ends the processes of all ranks. A rank that failed and only left would let the others wait for it for ever.
    fn abort(&self, status: i32) -> ! {
        std::process::exit(status)
    }
}

/// The ranks that train together, seen from one of them.
#[derive(Clone)]
pub struct World {
    /// From 0.
    pub rank: usize,
    /// At least 1.
    pub size: usize,
    backend: Arc<dyn Collective>,
}

impl World {
    /// A world of one.
    pub fn single() -> Self {
        Self { rank: 0, size: 1, backend: Arc::new(single::Single) }
    }

    /// Joins the ranks that the environment tells of, for training on CPUs.
    ///
    /// # Errors
    /// As [`Launch::from_environment`] and [`World::join`].
    pub fn from_environment() -> Result<Self> {
        Self::join(&Launch::from_environment()?, &Device::Cpu)
    }

    /// Joins the ranks of `launch`; returns once all are there. The device decides who adds up: NCCL on a GPU, else
    /// MPI.
    ///
    /// # Errors
    /// This build lacks the backend, the launcher does not fit it, or the ranks do not find each other.
    pub fn join(launch: &Launch, device: &Device) -> Result<Self> {
        if launch.size == 1 {
            return Ok(Self::single());
        }
        let backend = backend(launch, device)?;
        Ok(Self::with_backend(launch.rank, launch.size, backend))
    }

    /// A world with a backend of one's own.
    pub fn with_backend(rank: usize, size: usize, backend: Box<dyn Collective>) -> Self {
        assert!(rank < size, "rank {rank} of {size}");
        Self { rank, size, backend: backend.into() }
    }

    /// Whether this rank writes logs and checkpoints.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// See [`Collective::sum_f32`].
    ///
    /// # Errors
    /// As [`Collective::sum_f32`].
    pub fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        self.backend.sum_f32(values)
    }

    /// See [`Collective::sum_f64`].
    ///
    /// # Errors
    /// As [`Collective::sum_f64`].
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.backend.sum_f64(values)
    }

    /// Replaces every value by its mean over the ranks.
    ///
    /// # Errors
    /// As [`Collective::sum_f64`].
    pub fn mean_f64(&self, values: &mut [f64]) -> Result<()> {
        self.backend.sum_f64(values)?;
        values.iter_mut().for_each(|value| *value /= self.size as f64);
        Ok(())
    }

    /// Replaces the elements of an F32 tensor by their sum over the ranks; tensors that share its memory keep theirs.
    ///
    /// # Errors
    /// As [`Collective::sum_tensor`].
    pub fn sum_tensor(&self, tensor: &mut Tensor) -> Result<()> {
        if self.size == 1 { Ok(()) } else { self.backend.sum_tensor(tensor) }
    }

    /// Sums many F32 tensors with few calls, see [`buckets`]; their order must be the same on all ranks.
    ///
    /// # Errors
    /// As [`Collective::sum_tensor`].
    pub fn sum_tensors(&self, tensors: &mut [&mut Tensor]) -> Result<()> {
        if self.size == 1 { Ok(()) } else { buckets::sum(&*self.backend, tensors, buckets::ELEMENTS) }
    }

    /// See [`Collective::broadcast_bytes`].
    ///
    /// # Errors
    /// As [`Collective::broadcast_bytes`].
    pub fn broadcast_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        self.backend.broadcast_bytes(bytes)
    }

    /// See [`Collective::barrier`].
    ///
    /// # Errors
    /// As [`Collective::barrier`].
    pub fn barrier(&self) -> Result<()> {
        self.backend.barrier()
    }

    /// See [`Collective::abort`].
    pub fn abort(&self, status: i32) -> ! {
        self.backend.abort(status)
    }
}

fn backend(launch: &Launch, device: &Device) -> Result<Box<dyn Collective>> {
    #[cfg(feature = "nccl")]
    if let Device::Cuda(device) = device {
        return Ok(Box::new(nccl::Nccl::join(launch, device)?));
    }
    #[cfg(feature = "mpi")]
    if device.is_cpu() {
        return Ok(Box::new(mpi::Mpi::join(launch)?));
    }
    Err(no_backend(launch, device))
}

fn no_backend(launch: &Launch, device: &Device) -> Error {
    let (feature, place) = if device.is_cuda() { ("nccl", "GPUs") } else { ("mpi", "CPUs") };
    Error::request(format!(
        "{} started {} ranks, but this build cannot add up gradients between {place}: build it with \
         `cargo build --release -p moewe-train --features {feature}`, or start one rank",
        launch.launcher, launch.size
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_needs_nobody() {
        let world = World::join(&Launch::alone(), &Device::Cpu).unwrap();
        let mut values = [1.5f32, -2.0];
        world.sum_f32(&mut values).unwrap();
        let mut tensor = Tensor::new(&[3f32], &Device::Cpu).unwrap();
        world.sum_tensors(&mut [&mut tensor]).unwrap();
        let mut bytes = vec![7];
        world.broadcast_bytes(&mut bytes).unwrap();
        world.barrier().unwrap();
        assert_eq!((values, bytes, world.is_first()), ([1.5, -2.0], vec![7], true));
    }

    #[test]
    #[cfg(not(feature = "mpi"))]
    fn several_ranks_without_a_backend_are_told_the_feature() {
        let launch = Launch { size: 2, launcher: "mpirun", ..Launch::alone() };
        let error = World::join(&launch, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains("mpirun started 2 ranks") && error.contains("--features mpi"), "{error}");
    }
}
