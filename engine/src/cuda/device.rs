//! A card: its memory, its stream of work, and what is started on it.
//!
//! Everything on a device happens on one stream, in the order in which it was asked for, and later than the call that asks:
//! who gives memory of the program to a copy keeps it until [`Device::wait`].

use super::arguments::Argument;
use super::driver::{Address, Driver, Handle, attribute};
use crate::error::{Error, Result};
use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Capability that the kernels are compiled for.
pub(super) const LEAST_CAPABILITY: (c_int, c_int) = (8, 0);
/// Memory that hosts may write directly from every context (`CU_MEMHOSTALLOC_PORTABLE`).
const PORTABLE: u32 = 1;
/// Threads may call what a capture has no part in (`CU_STREAM_CAPTURE_MODE_RELAXED`).
const RELAXED: c_int = 2;
/// A stream that does not wait for the default one (`CU_STREAM_NON_BLOCKING`).
const NON_BLOCKING: u32 = 1;

/// A card in use.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    driver: Driver,
    ordinal: c_int,
    context: Handle,
    stream: Handle,
    name: String,
    multiprocessors: u32,
    allocations: AtomicU64,
}

// SAFETY: the driver's functions may be called from every thread, and its handles belong to the process.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Device {
    /// Takes card number `ordinal`.
    ///
    /// # Errors
    /// When there is no driver, no such card, or one that the kernels do not run on.
    pub fn open(ordinal: usize) -> Result<Self> {
        let driver = Driver::open()?;
        let mut count = 0;
        // SAFETY: here and in all of this file: the driver writes single values to places of the call, and addresses and
        // handles are those that it gave out, which their owners keep alive.
        driver.check("cuDeviceGetCount", |d| unsafe { (d.cuDeviceGetCount)(&mut count) })?;
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        if number >= count {
            return Err(Error::request(format!(
                "there is no card {ordinal}; the driver knows {count}, from 0 up"
            )));
        }
        let mut device = 0;
        // SAFETY: as above.
        driver.check("cuDeviceGet", |d| unsafe { (d.cuDeviceGet)(&mut device, number) })?;
        let name = driver.name(device)?;
        let read = |which| driver.attribute(device, which);
        let capability = (read(attribute::CAPABILITY_MAJOR)?, read(attribute::CAPABILITY_MINOR)?);
        if capability < LEAST_CAPABILITY {
            return Err(Error::unsupported(
                format!("{name} has compute capability {}.{}, below 8.0", capability.0, capability.1),
                "compute with --device cpu",
            ));
        }
        let multiprocessors = read(attribute::MULTIPROCESSORS)?.max(1) as u32;
        let (mut context, mut stream) = (null_mut(), null_mut());
        // SAFETY: as above.
        driver.check("cuDevicePrimaryCtxRetain", |d| unsafe {
            (d.cuDevicePrimaryCtxRetain)(&mut context, device)
        })?;
        // SAFETY: as above.
        driver.check("cuCtxSetCurrent", |d| unsafe { (d.cuCtxSetCurrent)(context) })?;
        driver.check("cuStreamCreateWithPriority", |d| unsafe {
            // SAFETY: as above.
            (d.cuStreamCreateWithPriority)(&mut stream, NON_BLOCKING, 0)
        })?;
        Ok(Self(Arc::new(Inner {
            driver,
            ordinal: device,
            context,
            stream,
            name,
            multiprocessors,
            allocations: AtomicU64::new(0),
        })))
    }

    /// What the maker calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors
    }

    fn call(&self, name: &str, run: impl FnOnce(&Driver) -> c_int) -> Result<()> {
        self.0.driver.check(name, run)
    }

    /// Lets this thread call the device.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: as in `open`.
        self.call("cuCtxSetCurrent", |d| unsafe { (d.cuCtxSetCurrent)(self.0.context) })
    }

    /// Bytes free and in all.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: as in `open`.
        self.call("cuMemGetInfo_v2", |d| unsafe { (d.cuMemGetInfo_v2)(&mut free, &mut all) })?;
        Ok((free as u64, all as u64))
    }

    /// `len` bytes of the device with whatever they hold.
    ///
    /// # Errors
    /// When it has no such room.
    pub fn allocate(&self, len: usize) -> Result<Memory> {
        self.enter()?;
        self.0.allocations.fetch_add(1, Ordering::Relaxed);
        let mut address = 0;
        // SAFETY: as in `open`.
        self.call("cuMemAlloc_v2", |d| unsafe { (d.cuMemAlloc_v2)(&mut address, len.max(1)) })?;
        Ok(Memory { device: self.clone(), address, len })
    }

    /// How often memory was asked for: as long as that stays the same, so do the places of everything.
    pub fn allocations(&self) -> u64 {
        self.0.allocations.load(Ordering::Relaxed)
    }

    /// `len` bytes of the program that copies need not take a detour to.
    ///
    /// # Errors
    /// When the system has no such room.
    pub fn pinned(&self, len: usize) -> Result<Pinned> {
        self.enter()?;
        let mut start = null_mut();
        // SAFETY: as in `open`.
        self.call("cuMemHostAlloc", |d| unsafe { (d.cuMemHostAlloc)(&mut start, len.max(1), PORTABLE) })?;
        Ok(Pinned { device: self.clone(), start: start.cast(), len })
    }

    /// Numbers of the program in memory of the device; done when it returns.
    ///
    /// # Errors
    /// When the device has no room, or the driver refuses.
    pub fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let memory = self.allocate(bytes.len())?;
        self.copy_now(memory.address(), bytes)?;
        Ok(memory)
    }

    /// Copies to the device, where the caller has memory of so many bytes; done when it returns.
    ///
    /// # Errors
    /// When the driver refuses, or something before it failed.
    pub fn copy_now(&self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: `bytes` are borrowed until the copy is done.
        unsafe { self.copy_in(to, bytes)? };
        self.wait()
    }

    /// Starts a copy to the device.
    ///
    /// # Safety
    /// `bytes` must stay as they are until [`Device::wait`], and `to` have room for them.
    ///
    /// # Errors
    /// When the driver refuses.
    pub unsafe fn copy_in(&self, to: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (from, stream) = (bytes.as_ptr().cast::<c_void>(), self.0.stream);
        // SAFETY: the caller's promise.
        self.call("cuMemcpyHtoDAsync_v2", |d| unsafe {
            (d.cuMemcpyHtoDAsync_v2)(to, from, bytes.len(), stream)
        })
    }

    /// Copies to the program; done when it returns.
    ///
    /// # Errors
    /// When the driver refuses, or something before it failed.
    pub fn copy_out(&self, from: &Memory, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= from.len);
        if bytes.is_empty() {
            return Ok(());
        }
        let (to, stream) = (bytes.as_mut_ptr().cast::<c_void>(), self.0.stream);
        // SAFETY: `bytes` are borrowed until the copy is done.
        self.call("cuMemcpyDtoHAsync_v2", |d| unsafe {
            (d.cuMemcpyDtoHAsync_v2)(to, from.address, bytes.len(), stream)
        })?;
        self.wait()
    }

    /// Zeros.
    ///
    /// # Errors
    /// When the device has no room, or the driver refuses.
    pub fn zeros(&self, len: usize) -> Result<Memory> {
        let memory = self.allocate(len)?;
        // SAFETY: the memory is new, and what frees it waits.
        self.call("cuMemsetD8Async", |d| unsafe {
            (d.cuMemsetD8Async)(memory.address, 0, len, self.0.stream)
        })?;
        Ok(memory)
    }

    /// Copies from one memory to another as large, in the order of what is asked for.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn copy_within(&self, from: &Memory, to: &Memory) -> Result<()> {
        assert_eq!(from.len, to.len);
        // SAFETY: both are as large as that, and what frees them waits.
        self.call("cuMemcpyDtoDAsync_v2", |d| unsafe {
            (d.cuMemcpyDtoDAsync_v2)(to.address, from.address, from.len, self.0.stream)
        })
    }

    /// Waits until everything asked for is done.
    ///
    /// # Errors
    /// The first failure of what was asked for.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: as in `open`.
        self.call("cuStreamSynchronize", |d| unsafe { (d.cuStreamSynchronize)(self.0.stream) })
    }

    /// From here to [`Device::captured`] work is not done but written down.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn capture(&self) -> Result<()> {
        // SAFETY: as in `open`.
        self.call("cuStreamBeginCapture_v2", |d| unsafe {
            (d.cuStreamBeginCapture_v2)(self.0.stream, RELAXED)
        })
    }

    /// What was asked for since [`Device::capture`], to be done again and again in one go.
    ///
    /// # Errors
    /// When the driver refuses, or something could not be written down.
    pub fn captured(&self) -> Result<Graph> {
        let (mut graph, mut handle) = (null_mut(), null_mut());
        // SAFETY: as in `open`.
        self.call("cuStreamEndCapture", |d| unsafe { (d.cuStreamEndCapture)(self.0.stream, &mut graph) })?;
        // SAFETY: as above.
        let made = self.call("cuGraphInstantiateWithFlags", |d| unsafe {
            (d.cuGraphInstantiateWithFlags)(&mut handle, graph, 0)
        });
        // SAFETY: as above; what was made of it stays.
        let _ = self.call("cuGraphDestroy", |d| unsafe { (d.cuGraphDestroy)(graph) });
        made.map(|()| Graph { device: self.clone(), handle })
    }

    /// Does what was written down.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn launch_graph(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the places that the graph names are there, as their owners and `Device::allocations` say.
        self.call("cuGraphLaunch", |d| unsafe { (d.cuGraphLaunch)(graph.handle, self.0.stream) })
    }

    /// Starts a kernel on `grid` blocks of `threads`.
    ///
    /// # Safety
    /// The arguments must be those of the kernel: number, order, types, and memory of the sizes that it touches, which
    /// lives until [`Device::wait`].
    ///
    /// # Errors
    /// When the driver refuses.
    pub unsafe fn launch(
        &self,
        kernel: &Function,
        grid: (usize, usize),
        threads: u32,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        let mut places: [Handle; MOST_ARGUMENTS] = [null_mut(); MOST_ARGUMENTS];
        for (place, argument) in places.iter_mut().zip(arguments) {
            *place = argument.0.as_ptr().cast_mut().cast();
        }
        let (x, y) = (grid.0 as u32, grid.1 as u32);
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        self.call(&kernel.name, |d| unsafe {
            let stream = self.0.stream;
            let places = places.as_mut_ptr();
            (d.cuLaunchKernel)(
                kernel.handle,
                x,
                y,
                1,
                threads,
                1,
                1,
                shared as u32,
                stream,
                places,
                null_mut(),
            )
        })
    }

    /// Compiles a module.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn module(&self, ptx: &str) -> Result<Module> {
        self.enter()?;
        let text = CString::new(ptx).map_err(|_| Error::request("a module with a zero byte"))?;
        let mut handle = null_mut();
        // SAFETY: as in `open`; the text ends with a zero.
        self.call("cuModuleLoadDataEx", |d| unsafe {
            (d.cuModuleLoadDataEx)(&mut handle, text.as_ptr().cast(), 0, null_mut(), null_mut())
        })?;
        Ok(Module { device: self.clone(), handle })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: nothing of the device is left: all of it holds a share of this.
        unsafe {
            (self.driver.cuCtxSetCurrent)(self.context);
            (self.driver.cuStreamDestroy_v2)(self.stream);
            (self.driver.cuDevicePrimaryCtxRelease_v2)(self.ordinal);
        }
    }
}

/// Memory of the device; given back when dropped.
pub struct Memory {
    device: Device,
    address: Address,
    len: usize,
}

impl Memory {
    /// Where it is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl From<&Memory> for Argument {
    fn from(memory: &Memory) -> Self {
        memory.address().into()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: it was allocated there, and the driver waits for work that uses it.
        let _ = self.device.call("cuMemFree_v2", |d| unsafe { (d.cuMemFree_v2)(self.address) });
    }
}

/// Memory of the program that the device can reach; given back when dropped.
pub struct Pinned {
    device: Device,
    start: *mut u8,
    len: usize,
}

// SAFETY: it is memory like any other.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the driver gave so many bytes, which are this one's own.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Writes bytes at `start`; no copy of these may be under way.
    pub fn write(&mut self, start: usize, bytes: &[u8]) {
        self.bytes()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Starts a copy of so many bytes, which stay as they are until [`Device::wait`].
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn send(&mut self, start: usize, len: usize, to: Address) -> Result<()> {
        let device = self.device.clone();
        // SAFETY: the caller's promise.
        unsafe { device.copy_in(to, &self.bytes()[start..start + len]) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: it was allocated there; copies are done, or the driver waits for them.
        let _ = self.device.call("cuMemFreeHost", |d| unsafe { (d.cuMemFreeHost)(self.start.cast()) });
    }
}

/// Work that was written down; forgotten when dropped.
pub struct Graph {
    device: Device,
    handle: Handle,
}

// SAFETY: a handle of the process.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: it is launched by nobody any more.
        let _ = self.device.call("cuGraphExecDestroy", |d| unsafe { (d.cuGraphExecDestroy)(self.handle) });
    }
}

/// Compiled kernels; unloaded when dropped.
pub struct Module {
    device: Device,
    handle: Handle,
}

// SAFETY: a handle of the process.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// One of its kernels.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn function(&self, name: &str) -> Result<Function> {
        let text = CString::new(name).map_err(|_| Error::request("a kernel's name with a zero byte"))?;
        let mut handle = null_mut();
        self.device
            // SAFETY: as in `open`; the text ends with a zero.
            .call(name, |d| unsafe { (d.cuModuleGetFunction)(&mut handle, self.handle, text.as_ptr()) })?;
        Ok(Function { handle, name: name.into() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: its kernels are not started any more: who starts them holds the module.
        let _ = self.device.call("cuModuleUnload", |d| unsafe { (d.cuModuleUnload)(self.handle) });
    }
}

/// A kernel.
#[derive(Clone)]
pub struct Function {
    handle: Handle,
    name: Arc<str>, // of the call in an error
}

// SAFETY: a handle of the process.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// No kernel has more.
const MOST_ARGUMENTS: usize = 28;
