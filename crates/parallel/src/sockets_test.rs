//! Two ends of a connection, of which one does not behave as a rank does.

use std::cell::Cell;
use std::net::TcpListener;

use super::*;

/// What takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, there)
}

/// Rank `rank` of a world of two.
fn end(rank: usize, stream: TcpStream, patience: Duration) -> Group {
    let mut streams = vec![None, None];
    streams[1 - rank] = Some(stream);
    let transport = Arc::new(Sockets::start(rank, streams, patience).unwrap());
    let group = MessageGroup::world(transport, rank, 2, patience);
    Group::new(Box::new(group), "world")
}

#[test]
fn a_length_that_nobody_has_ends_the_world_and_nothing_else() {
    for length in [1 << 40, 1 << 62, u64::MAX] {
        let (here, mut there) = pair();
        let group = end(0, here, PATIENCE);
        let mut call = Call::new(Kind::Message, Dtype::Bytes, 0);
        call.count = length;
        let mut header = wire::header(0, &call, 0);
        let at = header.len() - 8;
        header[at..].copy_from_slice(&length.to_le_bytes());
        there.write_all(&header).unwrap();
        let error = group.receive(1, None).unwrap_err();
        assert!(error.is_resumable(), "{error}");
        let said = error.to_string();
        let wanted = format!("rank 1: {length} bytes were announced");
        assert!(said.contains(&wanted), "{said}");
    }
}

/// Messages of the right call and another length are an error, not a panic.
#[test]
fn a_buffer_of_another_length_is_a_disagreement() {
    let (here, there) = pair();
    let group = end(0, here, PATIENCE);
    let there = Connection::new(there, PATIENCE).unwrap();
    let call = Call {
        sequence: 1,
        ..Call::new(Kind::Broadcast, Dtype::Bytes, 8)
    };
    there
        .write([&wire::header(0, &call, 3), &[1, 2, 3]])
        .unwrap();
    let mut data = [0_i64];
    let error = group.broadcast(&mut data, 1).unwrap_err();
    assert!(
        matches!(error, CommError::Disagree { rank: 1, .. }),
        "{error}"
    );
}

/// As a machine does that has lost its power, or a process that was stopped.
#[test]
fn a_rank_that_gives_no_sign_of_life_is_given_up() {
    let (here, _there) = pair();
    let group = end(0, here, Duration::from_secs(1));
    let error = group.receive(1, None).unwrap_err();
    assert!(error.is_resumable());
    assert_eq!(
        error.to_string(),
        "message of 0 bytes (call 0) in group world: no sign of rank 1 for 1 s"
    );
}

/// A rank that works and says nothing is waited for, longer than the patience of all.
#[test]
fn a_rank_that_lives_is_waited_for() {
    let patience = Duration::from_secs(2);
    let (here, there) = pair();
    let (group, other) = (end(0, here, patience), end(1, there, patience));
    let looks = Cell::new(0);
    let give_up = || looks.replace(looks.get() + 1) == 50;
    assert_eq!(group.receive_unless(1, &give_up).unwrap(), None);
    other.send(0, b"done").unwrap();
    assert_eq!(group.receive(1, None).unwrap(), b"done");
    drop(other);
    let error = group.receive(1, None).unwrap_err();
    assert!(matches!(error, CommError::Lost { .. }), "{error}");
}
