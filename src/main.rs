//! The command line: builds the house, serves, leaves politely.
//! It must not know what a call is.

mod command;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    command::run(std::env::args().skip(1))
}
