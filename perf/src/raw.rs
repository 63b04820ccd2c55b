//! What no safe crate of the graph offers: io_uring batches, and the UDP options of segmentation. The only unsafe code of this program.

pub(crate) mod ring;
pub(crate) mod udp;
