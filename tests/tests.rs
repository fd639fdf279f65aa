//! The one test binary of the gateway: the real `choreoai` as a child process, a fake provider behind
//! it, a raw client before it. It must not know the gateway's insides: only its door, its metrics,
//! its logs and its configuration.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

mod accuracy;
mod door;
mod keys;
mod licences;
mod life;
mod queries;
mod recordings;
mod sdks;
mod secrets;
mod streams;
mod support;
