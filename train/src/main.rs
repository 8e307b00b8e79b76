//! The `moewe-train` command: hands the arguments to [`moewe_train::cli`].

fn main() -> std::process::ExitCode {
    // Activations of many megabytes come and go in every step.
    moewe_engine::os::memory::keep_freed();
    moewe_train::cli::main()
}
