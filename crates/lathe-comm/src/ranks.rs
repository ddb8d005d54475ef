//! Ranks over TCP: who is there, what they sent, and who was lost.
//!
//! Every two ranks have a connection. A thread for each reads frames into an inbox, so a sender never waits for its
//! receiver's program; another says that this rank is alive.

use crate::frame::{Frame, FrameError, Kind, read_frame, write_frame};
use lathe_exec::{ExecError, Peers};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this long without a sign of life, a rank is lost.
pub const SILENCE: Duration = Duration::from_secs(4);

/// How often a rank says that it is alive.
const PULSE: Duration = Duration::from_millis(500);

/// Bytes of messages of one rank that may wait to be received.
const MOST_HELD: usize = 1 << 30;

/// How often a receiver looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

/// What is known of another rank.
#[derive(Default)]
struct Peer {
    messages: HashMap<u64, VecDeque<Vec<u8>>>,
    held: usize,
    finished: bool,
    /// Why it is lost.
    lost: Option<String>,
}

#[derive(Default)]
struct Inbox {
    peers: Mutex<Vec<Peer>>,
    news: Condvar,
    /// Whether this rank has ended.
    over: Mutex<bool>,
    end: Condvar,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    fn lose(&self, rank: u32, why: String) {
        let peer = &mut lock(&self.peers)[rank as usize];
        if !peer.finished {
            peer.lost.get_or_insert(why);
        }
        self.news.notify_all();
    }
}

/// This rank and its connections to the others.
pub struct Ranks {
    wires: Arc<Vec<Option<Mutex<TcpStream>>>>,
    inbox: Arc<Inbox>,
}

fn lost(rank: u32, message: impl Into<String>) -> ExecError {
    ExecError::Peer { rank, message: message.into() }
}

/// What an error of a connection says about the other side.
fn why(error: &FrameError) -> String {
    use io::ErrorKind::{TimedOut, WouldBlock};
    match error {
        FrameError::Io(e) if matches!(e.kind(), WouldBlock | TimedOut) => {
            format!("was lost: nothing was heard of it for {} s", SILENCE.as_secs())
        }
        FrameError::Io(e) => format!("was lost: {e}"),
        damaged => damaged.to_string(),
    }
}

impl Ranks {
    /// Joins `count` ranks as `rank`: connects to all lower ones at their addresses, and waits at `listener` for the higher
    /// ones (the highest needs none), for as long as `patience`.
    pub fn join(
        rank: u32,
        count: u32,
        addresses: &[SocketAddr],
        listener: Option<TcpListener>,
        patience: Duration,
    ) -> Result<Ranks, ExecError> {
        let deadline = Instant::now() + patience;
        let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
        let hello = u64::from(rank) | u64::from(count) << 32;
        for peer in 0..rank.min(count) {
            let address = addresses.get(peer as usize).ok_or_else(|| lost(peer, "has no address"))?;
            streams[peer as usize] = Some(loop {
                let tried = connect(address, hello, u64::from(peer) | u64::from(count) << 32);
                match tried {
                    Ok(stream) => break stream,
                    Err(e) if Instant::now() > deadline => {
                        return Err(lost(peer, format!("did not join within {patience:?}: {}", why(&e))));
                    }
                    Err(_) => std::thread::sleep(LOOK),
                }
            });
        }
        while let Some(missing) = (rank + 1..count).find(|p| streams[*p as usize].is_none()) {
            let listener = listener.as_ref().ok_or_else(|| lost(missing, "has nowhere to join"))?;
            let accepted = listener.set_nonblocking(true).and_then(|()| listener.accept());
            let failed = match accepted {
                Ok((stream, _)) => match greet(stream, hello, count) {
                    // Whoever says something else is no rank of ours.
                    Ok((peer, stream)) if peer > rank && streams[peer as usize].is_none() => {
                        streams[peer as usize] = Some(stream);
                        continue;
                    }
                    _ => continue,
                },
                Err(e) => e,
            };
            if Instant::now() > deadline || failed.kind() != io::ErrorKind::WouldBlock {
                return Err(lost(missing, format!("did not join within {patience:?}: {failed}")));
            }
            std::thread::sleep(LOOK);
        }
        Ranks::over(streams)
    }

    /// Starts the threads of connections that are there.
    fn over(streams: Vec<Option<TcpStream>>) -> Result<Ranks, ExecError> {
        let inbox = Arc::new(Inbox::default());
        lock(&inbox.peers).resize_with(streams.len(), Peer::default);
        let mut wires = vec![];
        for (peer, stream) in streams.into_iter().enumerate() {
            let peer = peer as u32;
            let Some(stream) = stream else {
                wires.push(None);
                continue;
            };
            let started = stream.try_clone().and_then(|reader| {
                let inbox = Arc::clone(&inbox);
                let name = format!("lathe-rank-{peer}");
                std::thread::Builder::new().name(name).spawn(move || listen(peer, reader, &inbox))
            });
            started.map_err(|e| lost(peer, format!("has nobody who listens to it: {e}")))?;
            wires.push(Some(Mutex::new(stream)));
        }
        let ranks = Ranks { wires: Arc::new(wires), inbox };
        let (wires, inbox) = (Arc::clone(&ranks.wires), Arc::clone(&ranks.inbox));
        let pulse =
            std::thread::Builder::new().name("lathe-pulse".into()).spawn(move || pulse(&wires, &inbox));
        pulse.map_err(|e| lost(0, format!("would not know that this one is alive: {e}")))?;
        Ok(ranks)
    }

    fn write(&self, to: u32, kind: Kind, tag: u64, body: &[u8]) -> Result<(), ExecError> {
        let wire = self.wires.get(to as usize).and_then(Option::as_ref);
        let wire = wire.ok_or_else(|| lost(to, "is not one of the other ranks"))?;
        if let Some(why) = &lock(&self.inbox.peers)[to as usize].lost {
            return Err(lost(to, why.clone()));
        }
        let written = write_frame(&mut *lock(wire), kind, tag, body);
        written.map_err(|e| {
            self.inbox.lose(to, why(&FrameError::Io(e)));
            let peers = lock(&self.inbox.peers);
            lost(to, peers[to as usize].lost.clone().unwrap_or_else(|| "has finished already".into()))
        })
    }

    /// Says that nothing more comes from here, and waits until all others say so. A rank that ends without this is lost to
    /// the others.
    pub fn finish(self) -> Result<(), ExecError> {
        let others = || (0..self.wires.len() as u32).filter(|r| self.wires[*r as usize].is_some());
        for rank in others() {
            let told = self.write(rank, Kind::Bye, 0, &[]);
            // One that has finished has everything it wanted, whether or not it still hears this.
            if !lock(&self.inbox.peers)[rank as usize].finished {
                told?;
            }
        }
        let mut peers = lock(&self.inbox.peers);
        for rank in others() {
            loop {
                let peer = &peers[rank as usize];
                match &peer.lost {
                    _ if peer.finished => break,
                    Some(why) => return Err(lost(rank, why.clone())),
                    None => peers = self.inbox.news.wait(peers).unwrap_or_else(PoisonError::into_inner),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        *lock(&self.inbox.over) = true;
        self.inbox.end.notify_all();
        for wire in self.wires.iter().flatten() {
            let _ = lock(wire).shutdown(Shutdown::Both); // closed already is as good
        }
    }
}

impl Peers for Ranks {
    fn send(&self, to: u32, tag: u64, bytes: &[u8]) -> Result<(), ExecError> {
        self.write(to, Kind::Data, tag, bytes)
    }

    fn receive(&self, from: u32, tag: u64, stopped: &dyn Fn() -> bool) -> Result<Option<Vec<u8>>, ExecError> {
        if self.wires.get(from as usize).is_none_or(Option::is_none) {
            return Err(lost(from, "is not one of the other ranks"));
        }
        let mut peers = lock(&self.inbox.peers);
        loop {
            let peer = &mut peers[from as usize];
            if let Some(message) = peer.messages.get_mut(&tag).and_then(VecDeque::pop_front) {
                peer.held -= message.len();
                return Ok(Some(message));
            }
            if let Some(why) = &peer.lost {
                return Err(lost(from, why.clone()));
            }
            if peer.finished {
                return Err(lost(from, format!("has finished and sent nothing with tag {tag}")));
            }
            if stopped() {
                return Ok(None);
            }
            peers = self.inbox.news.wait_timeout(peers, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn timed(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

/// Connects to a lower rank, which answers with its own greeting.
fn connect(address: &SocketAddr, hello: u64, answer: u64) -> Result<TcpStream, FrameError> {
    let mut stream = TcpStream::connect_timeout(address, SILENCE)?;
    timed(&stream)?;
    write_frame(&mut stream, Kind::Hello, hello, &[])?;
    match read_frame(&mut stream)? {
        Some(Frame { kind: Kind::Hello, tag, .. }) if tag == answer => Ok(stream),
        _ => Err(FrameError::Damaged("it is not the greeting of that rank")),
    }
}

/// Answers whoever connects, when it is a rank of as many.
fn greet(mut stream: TcpStream, hello: u64, count: u32) -> Result<(u32, TcpStream), FrameError> {
    timed(&stream)?;
    stream.set_read_timeout(Some(PULSE))?;
    match read_frame(&mut stream)? {
        Some(Frame { kind: Kind::Hello, tag, .. })
            if (tag as u32) < count && tag >> 32 == u64::from(count) =>
        {
            write_frame(&mut stream, Kind::Hello, hello, &[])?;
            stream.set_read_timeout(Some(SILENCE))?;
            Ok((tag as u32, stream))
        }
        _ => Err(FrameError::Damaged("it is not a greeting")),
    }
}

/// The life of a thread that reads what one rank sends.
fn listen(rank: u32, mut from: TcpStream, inbox: &Inbox) {
    loop {
        let frame = match read_frame(&mut from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return inbox.lose(rank, "was lost: it closed the connection".into()),
            Err(e) => return inbox.lose(rank, why(&e)),
        };
        let mut peers = lock(&inbox.peers);
        let peer = &mut peers[rank as usize];
        match frame.kind {
            Kind::Alive => continue,
            Kind::Bye => peer.finished = true,
            Kind::Hello => {}
            Kind::Data => {
                peer.held += frame.body.len();
                if peer.held > MOST_HELD {
                    let what = format!("sent more than {MOST_HELD} bytes that nobody received");
                    peer.lost.get_or_insert(what);
                }
                peer.messages.entry(frame.tag).or_default().push_back(frame.body);
            }
        }
        let go_on = peer.lost.is_none() && !peer.finished;
        drop(peers);
        inbox.news.notify_all();
        if !go_on {
            return;
        }
    }
}

/// The life of the thread that says that this rank is alive.
fn pulse(wires: &[Option<Mutex<TcpStream>>], inbox: &Inbox) {
    let mut over = lock(&inbox.over);
    while !*over {
        over = inbox.end.wait_timeout(over, PULSE).unwrap_or_else(PoisonError::into_inner).0;
        if *over {
            return;
        }
        for wire in wires.iter().flatten() {
            // The reader of this connection says what is wrong with it.
            let _ = write_frame(&mut *lock(wire), Kind::Alive, 0, &[]);
        }
    }
}
