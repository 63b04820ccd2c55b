//! What no safe crate of the graph offers: io_uring batches, the UDP options of segmentation, another process's CPU clock, and a thread's
//! priority. The only unsafe code of this program.

pub(crate) mod clock;
pub(crate) mod priority;
pub(crate) mod ring;
pub(crate) mod udp;
