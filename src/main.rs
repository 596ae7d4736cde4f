//! The `overdue` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    overdue::cli::main()
}
