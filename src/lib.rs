//! ChoreoAI Gateway: an OpenAI-compatible gateway in front of every LLM provider, with metering and limits.
//! The binary in `main.rs` is a thin door to this library; tests use it too.

pub mod auth;
pub mod config;
pub mod error;
pub mod metrics;
pub mod telemetry;
pub mod upstream;
