//! The one test binary of this crate.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and tells what it saw"
)]

mod attacks;
mod aws;
mod bent;
mod chance;
mod dialects;
mod documented;
mod failures;
mod frames;
mod golden;
mod json;
mod native;
mod passing;
mod play;
mod recorded;
mod recordings_anthropic;
mod recordings_azure;
mod recordings_bedrock;
mod recordings_cohere;
mod recordings_compatible;
mod recordings_gemini;
mod recordings_ollama;
mod requests;
mod strict;
mod usages;
