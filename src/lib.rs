//! ChoreoAI Gateway: an OpenAI-compatible gateway in front of every LLM provider, with metering and limits.
//! The binary in `main.rs` is a thin door to this library; tests use it too.

pub mod app;
pub mod auth;
pub mod config;
pub mod decimal;
pub mod demo;
pub mod error;
pub mod flood;
pub mod house;
pub mod limits;
pub mod meter;
pub mod metrics;
pub mod pipeline;
pub mod prices;
pub mod probe;
pub mod rarely;
pub mod reload;
pub mod report;
pub mod router;
pub mod server;
pub mod status;
pub mod stream;
pub mod telemetry;
pub mod tokens;
pub mod trace;
pub mod upstream;
pub mod worker;
