//! The `moewe-train` command: hands the arguments to [`moewe_train::cli`].

fn main() -> std::process::ExitCode {
    moewe_train::cli::main()
}
