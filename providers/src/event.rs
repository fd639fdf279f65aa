//! What a stream translator says: bytes for the client and a word for the gateway.
//! It must not know frames, metering or the pump.

use crate::error::UpstreamError;
use crate::usage::Usage;

/// One thing that happened in a streamed answer.
#[derive(Debug)]
pub struct Event<'a> {
    /// Whole SSE lines for the client, blank line included; may be empty.
    pub bytes: &'a [u8],
    /// What it means.
    pub kind: Kind<'a>,
}

/// The meaning of an [`Event`].
#[derive(Debug)]
pub enum Kind<'a> {
    /// The answer has begun; nothing was generated yet (a role, a ping, an opening).
    Open,
    /// Something was generated; the text as far as it can be estimated on (answer, reasoning, tool
    /// arguments), perhaps empty (an image, an encrypted thought).
    Delta(&'a str),
    /// A choice has ended with a finish reason.
    Finish {
        /// How many tools it called.
        tool_calls: usize,
    },
    /// What the provider has counted so far; a later one replaces an earlier one.
    Usage(Usage),
    /// The provider reported an error in mid-stream. No bytes: the gateway words it for the client.
    Error(UpstreamError),
    /// A frame could not be read and was skipped.
    Malformed,
    /// The answer is complete; the bytes hold the end (`data: [DONE]`).
    Done,
}
