//! The machine of one home, without a shard around it.
