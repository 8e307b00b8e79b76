//! Ranks on CPUs, through MPI.
//!
//! Sums are made of an all-to-all and an all-gather rather than MPI's own reduction, whose order of additions is
//! the library's choice: here each element is added up on one rank, in the order of the ranks. The traffic is the
//! same as that of a ring. MPI ends all ranks when one of its calls fails, so calls return no errors.

use super::{Collective, Launch};
use crate::{Error, Result};
use ::mpi::Threading;
use ::mpi::datatype::Equivalence;
use ::mpi::environment::Universe;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, CommunicatorCollectives, Root};
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements per call and rank: small enough for MPI's counts (C ints), and for scratch that fits a cache.
const CHUNK: usize = 1 << 18;

/// The connection; MPI ends when it is dropped. The lock keeps the promise of `MPI_THREAD_SERIALIZED`: one call at a
/// time, whichever thread it comes from.
pub(super) struct Mpi {
    universe: Mutex<Universe>,
}

/// The communicator of all ranks while nobody else uses MPI.
struct Turn<'a> {
    world: SimpleCommunicator,
    _universe: MutexGuard<'a, Universe>,
}

impl Mpi {
    /// Initialises MPI, which works once in a process.
    pub(super) fn join(launch: &Launch) -> Result<Self> {
        let joined = ::mpi::initialize_with_threading(Threading::Serialized);
        let Some((universe, threading)) = joined else {
            return Err(Error::request("MPI can be joined only once in a process"));
        };
        let mpi = Self { universe: Mutex::new(universe) };
        mpi.check(launch, threading)?;
        Ok(mpi)
    }

    /// A launcher that this MPI library does not know starts worlds of one rank each.
    fn check(&self, launch: &Launch, threading: Threading) -> Result<()> {
        let turn = self.turn();
        let (rank, size) = (turn.world.rank() as usize, turn.size());
        if (rank, size) != (launch.rank, launch.size) {
            return Err(Error::request(format!(
                "{} says rank {} of {}, MPI says rank {rank} of {size}: start the ranks with the mpirun of the MPI \
                 library that this build links",
                launch.launcher, launch.rank, launch.size
            )));
        }
        if threading < Threading::Serialized {
            return Err(Error::request(
                "this MPI library may be used from one thread only; expected MPI_THREAD_SERIALIZED",
            ));
        }
        Ok(())
    }

    fn turn(&self) -> Turn<'_> {
        // A thread that panicked in between leaves nothing half changed here.
        let universe = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { world: universe.world(), _universe: universe }
    }
}

impl Turn<'_> {
    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn sum<T: Equivalence + Copy + Default + AddAssign>(&self, values: &mut [T]) {
        let chunk = CHUNK * self.size();
        values.chunks_mut(chunk).for_each(|values| self.sum_chunk(values));
    }

    /// Slice `r` of the chunk goes to rank `r`, is added up there and comes back to all.
    fn sum_chunk<T: Equivalence + Copy + Default + AddAssign>(&self, values: &mut [T]) {
        let size = self.size();
        let length = values.len().div_ceil(size);
        let mut mine = vec![T::default(); length * size];
        mine[..values.len()].copy_from_slice(values);
        let mut slices = vec![T::default(); length * size]; // one per rank
        self.world.all_to_all_into(&mine[..], &mut slices[..]);
        let (sum, others) = slices.split_at_mut(length);
        for other in others.chunks(length) {
            sum.iter_mut().zip(other).for_each(|(sum, &value)| *sum += value);
        }
        self.world.all_gather_into(&*sum, &mut mine[..]);
        values.copy_from_slice(&mine[..values.len()]);
    }
}

impl Collective for Mpi {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        self.turn().sum(values);
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.turn().sum(values);
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let turn = self.turn();
        let first = turn.world.process_at_rank(0);
        let mut length = bytes.len() as u64;
        first.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        bytes.chunks_mut(1 << 30).for_each(|chunk| first.broadcast_into(chunk));
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.turn().world.barrier();
        Ok(())
    }

    fn abort(&self, status: i32) -> ! {
        // Without a turn: the one who has it may be waiting for a rank that never comes.
        SimpleCommunicator::world().abort(status)
    }
}
