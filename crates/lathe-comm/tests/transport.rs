//! Frames and connections that are damaged, closed or silent: an error that names the rank, in time, and never a panic.

use lathe_comm::{Frame, Kind, Ranks, read_frame, write_frame};
use lathe_exec::Peers;
use proptest::prelude::*;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(5);

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes;
    let mut out = vec![];
    while let Ok(Some(frame)) = read_frame(&mut rest) {
        out.push(frame);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_frames_are_refused(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<prop::sample::Index>(),
        flip in any::<bool>(),
    ) {
        let (mut bytes, mut ends) = (vec![], vec![]);
        for (tag, body) in bodies.iter().enumerate() {
            write_frame(&mut bytes, Kind::Data, tag as u64, body).unwrap();
            ends.push(bytes.len());
        }
        let whole: Vec<Vec<u8>> = frames(&bytes).into_iter().map(|f| f.body).collect();
        prop_assert_eq!(&whole, &bodies);
        let place = if flip { at.index(bytes.len()) } else { cut.index(bytes.len()) };
        if flip { bytes[place] ^= 1 << bit } else { bytes.truncate(place) }
        // Frames before the damage are read, the damaged one and what follows are not.
        let sound = ends.iter().filter(|end| **end <= place).count();
        let got: Vec<Vec<u8>> = frames(&bytes).into_iter().map(|f| f.body).collect();
        prop_assert_eq!(&got[..], &bodies[..sound]);
    }

    #[test]
    fn any_bytes_are_no_frames(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(frames(&bytes).len(), 0);
    }
}

/// Rank 0 of two, and the raw connection of a rank 1 that has only said hello.
fn half() -> (Ranks, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let one = std::thread::spawn(move || {
        // Somebody else knocks first and is turned away.
        write_frame(&mut TcpStream::connect(address).unwrap(), Kind::Data, 1, b"who is there").unwrap();
        let mut one = TcpStream::connect(address).unwrap();
        write_frame(&mut one, Kind::Hello, 1 | 2 << 32, &[]).unwrap();
        assert_eq!(read_frame(&mut one).unwrap().unwrap().kind, Kind::Hello);
        one
    });
    let zero = Ranks::join(0, 2, &[address], Some(listener), PATIENCE).unwrap();
    (zero, one.join().unwrap())
}

fn failure(zero: &Ranks) -> (String, Duration) {
    let start = Instant::now();
    let error = zero.receive(1, 5, &|| false).unwrap_err().to_string();
    (error, start.elapsed())
}

#[test]
fn a_silent_rank_is_lost_in_five_seconds() {
    let (zero, one) = half();
    let (error, time) = failure(&zero);
    assert!(error.contains("rank 1 was lost: nothing was heard of it"), "{error}");
    assert!(time < Duration::from_secs(5), "{time:?}");
    assert!(zero.send(1, 0, b"x").is_err());
    drop(one);
}

#[test]
fn a_closed_connection_is_noticed_at_once() {
    let (zero, one) = half();
    drop(one);
    let (error, time) = failure(&zero);
    assert!(error.contains("rank 1 was lost"), "{error}");
    assert!(time < Duration::from_secs(1), "{time:?}");
    assert!(zero.finish().is_err());
}

#[test]
fn a_damaged_frame_loses_the_rank() {
    let (zero, mut one) = half();
    std::io::Write::write_all(&mut one, &[7; 64]).unwrap();
    assert!(failure(&zero).0.contains("rank 1 sent a damaged frame"));
}

#[test]
fn a_rank_that_has_finished_sends_nothing_more() {
    let (zero, mut one) = half();
    write_frame(&mut one, Kind::Data, 5, b"last").unwrap();
    write_frame(&mut one, Kind::Bye, 0, &[]).unwrap();
    drop(one);
    assert_eq!(zero.receive(1, 5, &|| false).unwrap().unwrap(), b"last");
    assert!(failure(&zero).0.contains("has finished and sent nothing with tag 5"));
    assert!(zero.receive(0, 5, &|| false).is_err() && zero.receive(9, 5, &|| false).is_err());
}

#[test]
fn a_receiver_that_is_told_to_stop_stops() {
    let (zero, _one) = half();
    assert_eq!(zero.receive(1, 5, &|| true).unwrap(), None);
}

#[test]
fn a_rank_that_never_joins_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Duration::from_millis(100);
    let error = Ranks::join(0, 2, &[address], Some(listener), patience).err().unwrap().to_string();
    assert!(error.contains("rank 1 did not join"), "{error}");
    let error = Ranks::join(1, 2, &[address], None, patience).err().unwrap().to_string();
    assert!(error.contains("rank 0 did not join"), "{error}");
}
