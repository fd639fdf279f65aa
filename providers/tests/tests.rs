//! The one test binary of this crate.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod chance;
mod dialects;
mod golden;
mod play;
mod recordings_compatible;
mod strict;
