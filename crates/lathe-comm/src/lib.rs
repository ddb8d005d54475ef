//! Transports between ranks, collectives as step programs, and lost ranks.
//!
//! A rank is a process that runs a step program of its own. [`Ranks::join`] connects it with the others over TCP; the
//! executor's `send` and `receive` steps go through it. A rank that is lost (its process ended, or nothing was heard of it
//! for [`SILENCE`]) ends whoever waits for it, with an error that names it. [`all_reduce`] is no mechanism of its own: it
//! returns steps.
//!
//! ```
//! use lathe_comm::Ranks;
//! use lathe_exec::Peers;
//! use std::net::TcpListener;
//! use std::time::Duration;
//! let listener = TcpListener::bind("127.0.0.1:0").unwrap();
//! let addresses = [listener.local_addr().unwrap()];
//! let patience = Duration::from_secs(5);
//! let other = std::thread::spawn(move || {
//!     let one = Ranks::join(1, 2, &addresses, None, patience).unwrap();
//!     one.send(0, 7, b"hello").unwrap();
//!     one.finish().unwrap();
//! });
//! let zero = Ranks::join(0, 2, &addresses, Some(listener), patience).unwrap();
//! assert_eq!(zero.receive(1, 7, &|| false).unwrap().unwrap(), b"hello");
//! zero.finish().unwrap();
//! other.join().unwrap();
//! ```

mod collective;
mod frame;
mod ranks;

pub use collective::all_reduce;
pub use frame::{Frame, FrameError, Kind, MOST_BYTES, read_frame, write_frame};
pub use ranks::{Ranks, SILENCE};
