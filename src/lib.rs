//! ChoreoAI Gateway: an OpenAI-compatible gateway in front of every LLM provider, with metering and limits.
//! The binary in `main.rs` is a thin door to this library; tests use it too.

pub mod limits;
