//! The benchmarks, one file each.

pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod publish;
pub(crate) mod resume;
pub(crate) mod slow;
