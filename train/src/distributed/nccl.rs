//! Ranks on GPUs, through NCCL.
//!
//! The communicator lives on a thread of its own, because it must not move between threads while the trainer may.
//! It works on candle's stream, so sums wait for the kernels before them and need no synchronisation.

use super::exchange::Meeting;
use super::{Collective, Launch};
use crate::{Error, Result};
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp, result::NcclError};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice};
use candle_core::{CpuStorage, CudaStorage, Device, InplaceOp1, Layout, Tensor};
use std::sync::mpsc::{Receiver, Sender, channel};

type Job = Box<dyn FnOnce(&Comm) + Send>;

/// The way to the communicator's thread, which ends when this is dropped.
pub(super) struct Nccl {
    jobs: Sender<Job>,
    device: Device,
}

impl Nccl {
    /// Meets the other ranks; each has a GPU of its own.
    pub(super) fn join(launch: &Launch, device: &CudaDevice) -> Result<Self> {
        let meeting = Meeting::detect(&|name| std::env::var(name).ok())?;
        let mut bytes = match launch.rank {
            0 => Id::new().map_err(failed)?.internal().map(|byte| byte as u8),
            _ => [0; 128],
        };
        meeting.exchange(launch, &mut bytes)?;
        let (jobs, inbox) = channel();
        let (ready, joined) = channel();
        let member = Member { launch: launch.clone(), device: device.clone(), id: bytes };
        std::thread::spawn(move || member.serve(&ready, &inbox));
        joined.recv().map_err(|_| gone())??;
        if launch.rank == 0 {
            meeting.close();
        }
        Ok(Self { jobs, device: Device::Cuda(device.clone()) })
    }

    /// Does something with the communicator and waits until it is queued on the stream.
    fn run(&self, tensor: &Tensor, action: Action) -> Result<()> {
        let (reply, answer) = channel();
        let tensor = tensor.clone();
        let job: Job = Box::new(move |communicator| {
            // Nobody waits any more only if the trainer's thread is gone, and then nobody wants the answer.
            let _ = reply.send(tensor.inplace_op1(&Together { communicator, action }));
        });
        self.jobs.send(job).map_err(|_| gone())?;
        Ok(answer.recv().map_err(|_| gone())??)
    }
}

/// What the communicator's thread begins with.
struct Member {
    launch: Launch,
    device: CudaDevice,
    id: [u8; 128],
}

impl Member {
    fn serve(self, ready: &Sender<Result<()>>, inbox: &Receiver<Job>) {
        let communicator = match self.join() {
            Ok(communicator) => communicator,
            Err(error) => return drop(ready.send(Err(error))),
        };
        if ready.send(Ok(())).is_ok() {
            inbox.iter().for_each(|job| job(&communicator));
        }
    }

    fn join(&self) -> Result<Comm> {
        let stream = self.device.cuda_stream();
        let bind = stream.context().bind_to_thread();
        bind.map_err(|e| Error::request(format!("CUDA does not serve a second thread: {e}")))?;
        let id = Id::uninit(self.id.map(|byte| byte as _));
        Comm::from_rank(stream, self.launch.rank, self.launch.size, id).map_err(failed)
    }
}

fn failed(error: NcclError) -> Error {
    Error::request(format!("NCCL failed: {error:?}; NCCL_DEBUG=INFO makes it say why"))
}

fn gone() -> Error {
    Error::request("the thread of NCCL has ended; the messages above say why")
}

#[derive(Clone, Copy)]
enum Action {
    Sum,
    Broadcast, // from rank 0
}

/// An operation of all ranks on the memory of one tensor.
struct Together<'a> {
    communicator: &'a Comm,
    action: Action,
}

impl Together<'_> {
    fn apply<T>(
        &self,
        memory: &mut T,
        queue: impl Fn(&Self, &mut T) -> NcclOutcome,
    ) -> candle_core::Result<()> {
        queue(self, memory).map(drop).map_err(|e| candle_core::Error::msg(failed(e)))
    }
}

type NcclOutcome =
    std::result::Result<candle_core::cuda_backend::cudarc::nccl::result::NcclStatus, NcclError>;

/// The call for one element type: the storage is an enum, the call is generic.
macro_rules! together {
    ($self:expr, $memory:expr) => {
        $self.apply($memory, |this, memory| match this.action {
            Action::Sum => this.communicator.all_reduce_in_place(memory, &ReduceOp::Sum),
            Action::Broadcast => this.communicator.broadcast_in_place(memory, 0),
        })
    };
}

impl InplaceOp1 for Together<'_> {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("NCCL works on GPU tensors, found one on the host")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> candle_core::Result<()> {
        match &mut storage.slice {
            CudaStorageSlice::F32(memory) => together!(self, memory),
            CudaStorageSlice::F64(memory) => together!(self, memory),
            CudaStorageSlice::I64(memory) => together!(self, memory),
            CudaStorageSlice::U8(memory) => together!(self, memory),
            _ => candle_core::bail!("NCCL is used for F32, F64, I64 and U8 only"),
        }
    }
}

impl Collective for Nccl {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let tensor = Tensor::new(&*values, &self.device)?;
        self.run(&tensor, Action::Sum)?;
        values.copy_from_slice(&tensor.to_vec1::<f32>()?);
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        let tensor = Tensor::new(&*values, &self.device)?;
        self.run(&tensor, Action::Sum)?;
        values.copy_from_slice(&tensor.to_vec1::<f64>()?);
        Ok(())
    }

    fn sum_tensor(&self, tensor: &mut Tensor) -> Result<()> {
        // The whole memory behind a tensor is summed, so it has to be a copy that nobody else sees.
        let copy = tensor.force_contiguous()?;
        self.run(&copy, Action::Sum)?;
        *tensor = copy;
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        let length = Tensor::new(&[bytes.len() as i64], &self.device)?;
        self.run(&length, Action::Broadcast)?;
        bytes.resize(length.to_vec1::<i64>()?[0] as usize, 0);
        let tensor = Tensor::new(&bytes[..], &self.device)?;
        self.run(&tensor, Action::Broadcast)?;
        *bytes = tensor.to_vec1()?;
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.sum_f32(&mut [0.0])
    }
}
