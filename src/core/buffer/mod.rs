//! Where bytes stay: those that arrived, for a turn; those that must leave, until the kernel took them.

mod arena;
mod segments;

pub use arena::{Lease, TurnArena};
pub use segments::{BufferPool, FileRange, Owner, Run, SegmentQueue};
