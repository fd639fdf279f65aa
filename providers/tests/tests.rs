//! The one test binary of this crate.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod bent;
mod chance;
mod dialects;
mod documented;
mod golden;
mod play;
mod recorded;
mod recordings_azure;
mod recordings_cohere;
mod recordings_compatible;
mod recordings_gemini;
mod recordings_ollama;
mod strict;
