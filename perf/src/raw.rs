//! What no safe crate of the graph offers: io_uring batches, the UDP options of segmentation, and another process's CPU clock. The only
//! unsafe code of this program.

pub(crate) mod clock;
pub(crate) mod ring;
pub(crate) mod udp;
