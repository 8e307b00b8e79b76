//! The `moewe-train` command: hands the arguments to [`moewe_train::cli`].

/// Activations of many megabytes come and go in every step; the system's allocator would return their pages each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    moewe_train::cli::main()
}
