//! Brings answers of every provider that speaks OpenAI's wire into OpenAI's own grammar. What is in
//! grammar already passes untouched; only what a dialect says otherwise is rebuilt.
//! It must not know any provider by name, nor requests.

mod calls;
mod glance;
mod mend;
mod mould;
mod stream;
pub(crate) mod usage;
mod whole;

pub(crate) use stream::{Ending, Stream};
pub(crate) use whole::{chat_answer, embeddings_answer};
