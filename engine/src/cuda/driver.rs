//! The driver's C interface: a table of the functions that are called here, found in the library at run time, and its
//! errors in words. Nothing is linked: whoever has no NVIDIA driver loses nothing.
//!
//! Signatures are those of `cuda.h` of CUDA 11.8, the first release that knows every card served here.

use crate::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_void};
use std::ptr::null;

/// An opaque handle: context, stream, event, module, function, graph.
pub(super) type Handle = *mut c_void;
/// An address in the device's memory.
pub(super) type Address = u64;

/// The driver's least version (CUDA 11.8), as `cuDriverGetVersion` writes it.
const LEAST_VERSION: c_int = 11080;

/// `CUresult` of calls that have nothing to say.
const SUCCESS: c_int = 0;

/// Names the library; tests put an emulated one in its place.
pub const LIBRARY_VARIABLE: &str = "MOEWE_CUDA_LIBRARY";

#[cfg(windows)]
const LIBRARIES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const LIBRARIES: &[&str] = &["libcuda.so.1", "libcuda.so"];

/// Makes the table: every name is looked up once, and a driver that lacks one is an error with that name.
macro_rules! driver {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The functions.
        #[allow(non_snake_case)]
        pub(super) struct Driver {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
            _library: Library,
        }

        impl Driver {
            #[allow(non_snake_case)]
            fn of(library: Library, name: &str) -> Result<Self> {
                // SAFETY: the signatures are those of cuda.h, and the library stays as long as its functions.
                unsafe {
                    $(let $name = *library
                        .get::<unsafe extern "C" fn($($argument),*) -> c_int>(stringify!($name).as_bytes())
                        .map_err(|_| lacks(name, stringify!($name)))?;)*
                    Ok(Self { $($name,)* _library: library })
                }
            }
        }
    };
}

driver! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(Handle);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut Address, usize);
    cuMemFree_v2(Address);
    cuMemHostAlloc(*mut Handle, usize, c_uint);
    cuMemFreeHost(Handle);
    cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, Handle);
    cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, Handle);
    cuMemcpyDtoDAsync_v2(Address, Address, usize, Handle);
    cuMemsetD8Async(Address, c_uchar, usize, Handle);
    cuStreamCreateWithPriority(*mut Handle, c_uint, c_int);
    cuStreamDestroy_v2(Handle);
    cuStreamSynchronize(Handle);
    cuStreamBeginCapture_v2(Handle, c_int);
    cuStreamEndCapture(Handle, *mut Handle);
    cuGraphInstantiateWithFlags(*mut Handle, Handle, u64);
    cuGraphLaunch(Handle, Handle);
    cuGraphExecDestroy(Handle);
    cuGraphDestroy(Handle);
    cuModuleLoadDataEx(*mut Handle, *const c_void, c_uint, *mut c_int, *mut Handle);
    cuModuleUnload(Handle);
    cuModuleGetFunction(*mut Handle, Handle, *const c_char);
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut Handle, *mut Handle
    );
    cuGetErrorName(c_int, *mut *const c_char);
    cuGetErrorString(c_int, *mut *const c_char);
}

fn lacks(library: &str, function: &str) -> Error {
    Error::unsupported(
        format!("the NVIDIA driver ({library}) lacks {function}"),
        "install driver 520 or newer, or compute with --device cpu",
    )
}

impl Driver {
    /// Finds the library and makes sure that it can be used.
    ///
    /// # Errors
    /// When there is none, it is too old, or it finds no card.
    pub(super) fn open() -> Result<Self> {
        let driver = Self::find()?;
        let mut version = 0;
        // SAFETY: the driver writes a whole number to a place of the call.
        driver.check("cuInit", |d| unsafe { (d.cuInit)(0) })?;
        // SAFETY: as above.
        driver.check("cuDriverGetVersion", |d| unsafe { (d.cuDriverGetVersion)(&mut version) })?;
        if version < LEAST_VERSION {
            let known = format!("{}.{}", version / 1000, version % 1000 / 10);
            return Err(Error::unsupported(
                format!("the NVIDIA driver knows CUDA {known}, Möwe needs 11.8"),
                "install driver 520 or newer, or compute with --device cpu",
            ));
        }
        Ok(driver)
    }

    fn find() -> Result<Self> {
        let named = std::env::var_os(LIBRARY_VARIABLE);
        let names = named.as_ref().map_or_else(
            || LIBRARIES.iter().map(|name| name.to_string()).collect(),
            |name| vec![name.to_string_lossy().into_owned()],
        );
        for name in &names {
            // SAFETY: loading a driver runs its initializers, as every program that computes on a card does.
            if let Ok(library) = unsafe { Library::new(name) } {
                return Self::of(library, name);
            }
        }
        Err(Error::unsupported(
            format!("no NVIDIA driver found ({})", names[0]),
            "install one, or compute with --device cpu",
        ))
    }

    /// What the maker calls a card.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn name(&self, device: c_int) -> Result<String> {
        let mut name = [0u8; 128];
        self.check("cuDeviceGetName", |d| {
            // SAFETY: the driver writes at most so many bytes to the live array.
            unsafe { (d.cuDeviceGetName)(name.as_mut_ptr().cast(), name.len() as c_int - 1, device) }
        })?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }

    /// An attribute of a card.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn attribute(&self, device: c_int, which: c_int) -> Result<c_int> {
        let mut value = 0;
        // SAFETY: the driver writes a whole number to a place of the call.
        self.check("cuDeviceGetAttribute", |d| unsafe {
            (d.cuDeviceGetAttribute)(&mut value, which, device)
        })?;
        Ok(value)
    }

    /// Runs a call and puts its failure into words.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn check(&self, call: &str, run: impl FnOnce(&Self) -> c_int) -> Result<()> {
        match run(self) {
            SUCCESS => Ok(()),
            code => Err(self.error(call, code)),
        }
    }

    /// A failure in words.
    fn error(&self, call: &str, code: c_int) -> Error {
        let text = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = null();
            // SAFETY: the driver writes the address of a text of its own, or leaves it.
            unsafe {
                get(code, &mut text);
                if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
            }
        };
        let name = text(self.cuGetErrorName).unwrap_or_else(|| format!("error {code}"));
        let meaning = text(self.cuGetErrorString).map_or(String::new(), |text| format!(", {text}"));
        let hint = match code {
            2 => "take less with --vram, --context or --cache-type q8_0, or compute with --device cpu",
            100 => "no card is there, or it is hidden (CUDA_VISIBLE_DEVICES); compute with --device cpu",
            _ => "compute with --device cpu, or report it",
        };
        Error::unsupported(format!("the NVIDIA driver refused {call}: {name}{meaning}"), hint)
    }
}

/// Reads one attribute of a card: `CUdevice_attribute`.
pub(super) mod attribute {
    use std::ffi::c_int;
    pub(in super::super) const CAPABILITY_MAJOR: c_int = 75;
    pub(in super::super) const CAPABILITY_MINOR: c_int = 76;
    pub(in super::super) const MULTIPROCESSORS: c_int = 16;
}
