//! Streams of frames: TCP and Unix connections of one reactor that speak a protocol of their own.
//!
//! An [`Endpoint`] is one server or client: its framing, its bounds, its heartbeat. [`Streams`] has the connections of
//! all of a reactor's endpoints. The application is on the other side of a queue of events, which it takes in one batch
//! a turn; it cuts the frames there (`framing().cut`) from what `take_input` hands it, and gives back what is left.
//!
//! What is bounded: bytes held for an application that does not take them (then reading pauses), bytes that a peer does
//! not read (then reading pauses, and a `send` beyond the bound is refused), silence, connections.

mod connection;
mod service;
mod settings;

pub use connection::{Ending, StreamConnection};
pub use service::{Input, StreamError, StreamEvent, StreamIo, Streams};
pub use settings::{Beat, Beats, Endpoint, Heartbeat, StreamSettings};
