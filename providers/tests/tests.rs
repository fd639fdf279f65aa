//! The one test binary of this crate.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and tells what it saw"
)]

mod crossmap_claude;
mod golden;
mod heard;
mod play;
mod recordings_anthropic;
mod recordings_bedrock;
