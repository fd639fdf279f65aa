//! Bytes divided into frames: however they are cut, the frames are the same.
//! It must not know what a frame means.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use providers::frames::{Decoder, Frame, Framing};

fn frames<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Frame>> {
    let mut decoder = Decoder::new(framing);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(frame) = decoder.next_frame().ok()? {
            frames.push(frame);
        }
    }
    while let Some(frame) = decoder.finish().ok()? {
        frames.push(frame);
    }
    Some(frames)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, body) = input;
    for framing in [Framing::Sse, Framing::JsonLines] {
        let whole = frames(framing, std::iter::once(body));
        assert_eq!(whole, frames(framing, body.chunks(usize::from(cut) % 64 + 1)), "in pieces of {}", cut % 64 + 1);
    }
});
