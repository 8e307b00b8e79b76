//! The `moewe` command: hands the arguments to [`cli`], which owns everything else.

mod cli;
mod embedded;
mod facts;
mod pull;
mod server;

fn main() -> std::process::ExitCode {
    cli::main()
}
