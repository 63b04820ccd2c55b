//! Frames on a byte stream, one behind another: each tells its own length, so nothing is put in front of it. For transports that
//! have streams and not messages, such as QUIC.

use bytes::{Buf, Bytes};

/// Length of the table in front of a frame's one segment.
const TABLE_BYTES: usize = 8;

/// Finds the frames in the chunks of a stream. Owns heap memory only while a frame is cut in two by the end of a chunk.
///
/// [`push`](Self::push) a chunk; look at [`front`](Self::front) and [`pop`](Self::pop) it, until there is none; push the next.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// The beginning of a frame, from earlier chunks.
    partial: Vec<u8>,
    /// What is not looked at yet.
    chunk: Bytes,
}

/// Bytes on a stream that are no frame. What follows cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The table in front is not that of one segment.
    #[error("a frame begins with the table of one segment that is not empty")]
    Table,
    /// The frame is longer than it may be.
    #[error("a frame of {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// How long it says it is.
        bytes: u64,
        /// How long it may be.
        max: usize,
    },
}

impl StreamError {
    /// The code to end the connection with.
    pub fn code(&self) -> crate::Code {
        match self {
            Self::Table => crate::Code::BadFrame,
            Self::TooLarge { .. } => crate::Code::TooLarge,
        }
    }
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what came next. What an earlier chunk left must have been taken: [`front`](Self::front) gave `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "a chunk is looked at before the next comes");
        self.chunk = chunk;
    }

    /// The next whole frame, of at most `frame_bytes_max` bytes; `None` if more has to come.
    ///
    /// # Errors
    /// [`StreamError`] if the stream holds something else.
    pub fn front(&mut self, frame_bytes_max: usize) -> Result<Option<&[u8]>, StreamError> {
        if self.partial.is_empty() {
            let Some(len) = length(&self.chunk, frame_bytes_max)? else { return Ok(self.keep()) };
            if len > self.chunk.len() {
                return Ok(self.keep());
            }
            return Ok(Some(&self.chunk[..len]));
        }
        self.fill(TABLE_BYTES);
        let Some(len) = length(&self.partial, frame_bytes_max)? else { return Ok(None) };
        self.fill(len);
        Ok((self.partial.len() == len).then_some(&*self.partial))
    }

    /// Goes behind the frame that [`front`](Self::front) gave.
    pub fn pop(&mut self) {
        if self.partial.is_empty() {
            let len = length(&self.chunk, usize::MAX).ok().flatten().unwrap_or(0);
            self.chunk.advance(len.min(self.chunk.len()));
        } else {
            self.partial = Vec::new();
        }
        if self.chunk.is_empty() {
            // It holds on to what it was cut from.
            self.chunk = Bytes::new();
        }
    }

    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// Whether the stream stands between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.held_bytes() == 0
    }

    fn keep(&mut self) -> Option<&[u8]> {
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        None
    }

    fn fill(&mut self, len: usize) {
        let missing = len.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk[..missing]);
        self.chunk.advance(missing);
    }
}

/// Length of the frame that `bytes` begin with; `None` if the table is not whole.
fn length(bytes: &[u8], frame_bytes_max: usize) -> Result<Option<usize>, StreamError> {
    let Some((table, _)) = bytes.split_first_chunk::<TABLE_BYTES>() else { return Ok(None) };
    let [a, b, c, d, words @ ..] = *table;
    let words = u64::from(u32::from_le_bytes(words));
    if [a, b, c, d] != [0; 4] || words == 0 {
        return Err(StreamError::Table);
    }
    let bytes = TABLE_BYTES as u64 + words * 8;
    match usize::try_from(bytes) {
        Ok(len) if len <= frame_bytes_max => Ok(Some(len)),
        _ => Err(StreamError::TooLarge { bytes, max: frame_bytes_max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 16;

    fn frame(words: u32, fill: u8) -> Vec<u8> {
        let mut frame = vec![0; 4];
        frame.extend_from_slice(&words.to_le_bytes());
        frame.resize(8 + words as usize * 8, fill);
        frame
    }

    fn read_all(reader: &mut FrameReader, chunk: &[u8], frames: &mut Vec<Vec<u8>>) {
        reader.push(Bytes::copy_from_slice(chunk));
        while let Some(found) = reader.front(MAX).unwrap() {
            frames.push(found.to_vec());
            assert_eq!(reader.front(MAX).unwrap().unwrap(), frames.last().unwrap(), "to look changes nothing");
            reader.pop();
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let frames = [frame(1, 1), frame(40, 2), frame(2, 3), frame(900, 4), frame(1, 5)];
        let stream = frames.concat();
        for size in [1, 2, 7, 8, 9, 16, 100, 7000, stream.len()] {
            let (mut reader, mut found) = (FrameReader::new(), Vec::new());
            for chunk in stream.chunks(size) {
                read_all(&mut reader, chunk, &mut found);
            }
            assert_eq!(found, frames, "in chunks of {size}");
            assert!(reader.is_between_frames());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let check = |bytes: &[u8], expect: StreamError| {
            for cut in [3, 8, bytes.len()] {
                let mut reader = FrameReader::new();
                let mut result = Ok(());
                for chunk in [&bytes[..cut], &bytes[cut..]] {
                    if result.is_ok() && !chunk.is_empty() {
                        reader.push(Bytes::copy_from_slice(chunk));
                        result = reader.front(MAX).map(|frame| assert_eq!(frame, None));
                    }
                }
                assert_eq!(result, Err(expect), "cut at {cut}");
            }
        };
        check(&[1, 0, 0, 0, 1, 0, 0, 0, 9], StreamError::Table);
        check(&[0, 0, 0, 0, 0, 0, 0, 0, 9], StreamError::Table);
        let longest = u64::from(u32::MAX) * 8 + 8;
        check(&[0, 0, 0, 0, 255, 255, 255, 255, 9], StreamError::TooLarge { bytes: longest, max: MAX });
        check(&[0, 0, 0, 0, 0, 32, 0, 0, 9], StreamError::TooLarge { bytes: 8 + 65_536, max: MAX });
    }

    #[test]
    fn a_reader_between_frames_holds_no_memory() {
        let mut reader = FrameReader::new();
        let mut found = Vec::new();
        let long = frame(1000, 1);
        read_all(&mut reader, &long[..100], &mut found);
        read_all(&mut reader, &long[100..], &mut found);
        assert_eq!((found.len(), reader.partial.capacity(), reader.held_bytes()), (1, 0, 0));
    }
}
