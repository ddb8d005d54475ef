//! What goes over a connection: frames of a head (marks, kind, tag, length, check) and a body. A damaged frame is an error,
//! and nothing that comes in makes the reader take more memory than came in.

use std::io::{self, Read, Write};

/// Longest body, bytes.
pub const MOST_BYTES: u64 = 1 << 28;

/// The first bytes of each frame; the last of them is the version.
const MARK: [u8; 4] = *b"LTH\x01";
const HEAD: usize = 32;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first frame of a connection: the sender's rank, and how many ranks it knows of, are its tag.
    Hello,
    /// A message.
    Data,
    /// The sender is alive.
    Alive,
    /// The sender has finished: nothing more comes.
    Bye,
}

const KINDS: [Kind; 4] = [Kind::Hello, Kind::Data, Kind::Alive, Kind::Bye];

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// The message's tag.
    pub tag: u64,
    /// The message.
    pub body: Vec<u8>,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What came is not a frame.
    #[error("sent a damaged frame: {0}")]
    Damaged(&'static str),
}

/// A check over words of 8 bytes: each step is a bijection, so one changed word always shows.
fn check(mut sum: u64, bytes: &[u8]) -> u64 {
    for word in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        sum = (sum ^ u64::from_le_bytes(padded)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    sum
}

/// Writes a frame.
pub fn write_frame(to: &mut impl Write, kind: Kind, tag: u64, body: &[u8]) -> io::Result<()> {
    if body.len() as u64 > MOST_BYTES {
        let what = format!("a message of {} bytes, of at most {MOST_BYTES}", body.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&MARK);
    head[4] = KINDS.iter().position(|k| *k == kind).expect("all kinds are there") as u8;
    head[8..16].copy_from_slice(&tag.to_le_bytes());
    head[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    let sum = check(check(0, &head[..24]), body);
    head[24..].copy_from_slice(&sum.to_le_bytes());
    to.write_all(&head)?;
    to.write_all(body)?;
    to.flush()
}

/// Reads a frame; none when the connection was closed between two of them.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; HEAD];
    let mut have = 0;
    while have < HEAD {
        match from.read(&mut head[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Damaged("it ends early")),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    if head[..4] != MARK {
        return Err(FrameError::Damaged("it does not begin like one"));
    }
    let kind = *KINDS.get(head[4] as usize).ok_or(FrameError::Damaged("it is of no known kind"))?;
    let (tag, len, sum) = (word(8), word(16), word(24));
    if len > MOST_BYTES {
        return Err(FrameError::Damaged("it is too long"));
    }
    let mut body = vec![];
    from.take(len).read_to_end(&mut body)?;
    if body.len() as u64 != len {
        return Err(FrameError::Damaged("it ends early"));
    }
    if check(check(0, &head[..24]), &body) != sum {
        return Err(FrameError::Damaged("its check is wrong"));
    }
    Ok(Some(Frame { kind, tag, body }))
}
