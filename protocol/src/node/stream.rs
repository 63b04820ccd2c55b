//! Frames out of the byte stream of the control link: a little-endian `u32` length in bytes, then the frame. Pure: the
//! caller reads the socket.

use bytes::{Buf, Bytes, BytesMut};

use super::FRAME_BYTES_MAX;
use crate::error::FrameError;

const LENGTH_BYTES: usize = 4;

/// Cuts a byte stream into frames.
///
/// Feed it with [`feed`](Self::feed) or read into [`buffer`](Self::buffer), then drain
/// [`next_frame`](Self::next_frame) until `None`. So drained it holds less than one frame; room is taken as bytes arrive, never because a
/// length was announced.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl FrameReader {
    /// A reader at the start of a stream, which refuses frames over `frame_bytes_max`: [`FRAME_BYTES_MAX`], or less for a
    /// peer that has not yet shown who it is.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), frame_bytes_max: frame_bytes_max.min(FRAME_BYTES_MAX) }
    }

    /// Sets another limit, for the frames that follow.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max.min(FRAME_BYTES_MAX);
    }

    /// Appends bytes of the stream.
    pub fn feed(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
    }

    /// The end of the buffer, for a shell that reads its socket straight into it.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes that wait for the rest of their frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, without its length, or `None` until more bytes come. The frame is not looked into.
    ///
    /// # Errors
    /// [`FrameError::FrameTooLarge`] as soon as a length over the limit is read; it is given again on each further call.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > self.frame_bytes_max {
            return Err(FrameError::FrameTooLarge { bytes, bytes_max: self.frame_bytes_max });
        }
        if self.buffer.len() - LENGTH_BYTES < bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(bytes).freeze()))
    }
}
