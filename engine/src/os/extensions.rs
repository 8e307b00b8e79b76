//! Extensions of the processor that a system tells, and that Rust's library, which `simd/` asks for all others, does not
//! ask it for.

/// Whether Windows says that the processor multiplies small matrices of bytes (`i8mm`). Versions that do not know of the
/// extension say no.
#[cfg(all(windows, target_arch = "aarch64"))]
pub fn has_i8mm() -> bool {
    use windows_sys::Win32::System::Threading::IsProcessorFeaturePresent;
    /// `PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE` of `winnt.h`, which the bindings do not have.
    const I8MM: u32 = 66;
    // SAFETY: the call takes a number and has no other argument.
    unsafe { IsProcessorFeaturePresent(I8MM) != 0 }
}

/// Whether only the system says so: elsewhere Rust's library asks.
#[cfg(not(all(windows, target_arch = "aarch64")))]
pub fn has_i8mm() -> bool {
    false
}
