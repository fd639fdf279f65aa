//! The one test binary of this crate.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and tells what it saw"
)]

mod chance;
mod crossmap_claude;
mod dialects;
mod failures;
mod frames;
mod golden;
mod heard;
mod json;
mod play;
mod recordings_anthropic;
mod recordings_bedrock;
mod recordings_compatible;
mod requests;
mod strict;
mod usages;
