//! Two ends of a connection, of which one does not behave as a rank does.

use std::cell::Cell;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use super::*;
use crate::element::Reduction;

/// What takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Both ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, there)
}

/// Rank `rank` of a world of two.
fn end(rank: usize, stream: TcpStream, collective_timeout: Duration) -> Group {
    let mut streams = vec![None, None];
    streams[1 - rank] = Some((stream, None));
    let transport = Arc::new(Sockets::start(rank, streams, collective_timeout).unwrap());
    let group = MessageGroup::world(transport, rank, 2, collective_timeout);
    Group::new(Box::new(group), "world")
}

#[test]
fn a_length_that_nobody_has_ends_the_world_and_nothing_else() {
    for length in [1 << 40, 1 << 62, u64::MAX] {
        let (here, mut there) = pair();
        let group = end(0, here, TIMEOUT);
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
    let group = end(0, here, TIMEOUT);
    let there = Connection::new((there, None), TIMEOUT).unwrap();
    let call = Call {
        sequence: 1,
        ..Call::new(Kind::Broadcast, Dtype::Bytes, 8)
    };
    there.write(&wire::header(0, &call, 3), &[1, 2, 3]).unwrap();
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

/// A rank that works and says nothing is waited for, longer than the collective_timeout of all.
#[test]
fn a_rank_that_lives_is_waited_for() {
    let collective_timeout = Duration::from_secs(2);
    let (here, there) = pair();
    let (group, other) = (
        end(0, here, collective_timeout),
        end(1, there, collective_timeout),
    );
    let looks = Cell::new(0);
    let give_up = || looks.replace(looks.get() + 1) == 50;
    assert_eq!(group.receive_unless(1, &give_up).unwrap(), None);
    other.send(0, b"done").unwrap();
    assert_eq!(group.receive(1, None).unwrap(), b"done");
    drop(other);
    let error = group.receive(1, None).unwrap_err();
    assert!(matches!(error, CommError::Lost { .. }), "{error}");
}

fn greeting(rank: usize, size: usize, encryption: Encryption) -> Greeting {
    Greeting {
        version: VERSION.to_owned(),
        size,
        rank,
        encryption,
        ..Greeting::default()
    }
}

/// The connections of `me`, who listens at `listener` and is told where the lower ranks are.
fn connected(
    listener: &TcpListener,
    lower: &[SocketAddr],
    (me, world): (&Greeting, &str),
) -> Result<Vec<Option<Line>>, CommError> {
    let mut addresses = lower.to_vec();
    addresses.resize(me.size, listener.local_addr().unwrap());
    connect(listener, &addresses, (me, world), Duration::from_secs(5))
}

/// A world of ranks in this process, with sockets between them.
fn world(size: usize, encryption: Encryption) -> Vec<Group> {
    let listeners: Vec<_> = (0..size)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<_> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    std::thread::scope(|scope| {
        let join = |(rank, listener)| {
            let lower = &addresses[..rank];
            scope.spawn(move || {
                let me = greeting(rank, size, encryption);
                let streams = connected(listener, lower, (&me, "w")).unwrap();
                let transport = Arc::new(Sockets::start(rank, streams, TIMEOUT).unwrap());
                let group = MessageGroup::world(transport, rank, size, TIMEOUT);
                Group::new(Box::new(group), "world")
            })
        };
        let ranks: Vec<_> = listeners.iter().enumerate().map(join).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What all ranks of a world get of the same work.
fn results(size: usize, encryption: Encryption) -> Vec<(Vec<f32>, Vec<u8>)> {
    std::thread::scope(|scope| {
        let work = |group: Group| {
            scope.spawn(move || {
                let (rank, size) = (group.rank(), group.size());
                // More than a record, and no multiple of one.
                let mut sums: Vec<f32> = (0..100_003).map(|at| (at * rank) as f32 / 7.0).collect();
                group.all_reduce(&mut sums, Reduction::Sum).unwrap();
                group
                    .send((rank + 1) % size, &vec![rank as u8; 200_000])
                    .unwrap();
                let heard = group.receive((rank + size - 1) % size, None).unwrap();
                group.barrier().unwrap();
                (sums, heard)
            })
        };
        let ranks: Vec<_> = world(size, encryption).into_iter().map(work).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn encrypted_worlds_compute_the_same() {
    for size in [2, 3] {
        let plain = results(size, Encryption::None);
        assert!(plain == results(size, Encryption::Noise), "{size} ranks");
    }
}

/// Somebody between two ranks, who hears everything from rank 1 and changes a bit when asked to.
struct Between {
    address: SocketAddr,
    changes: Arc<AtomicBool>,
    heard: JoinHandle<Vec<u8>>,
}

impl Between {
    fn put(before: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let changes = Arc::<AtomicBool>::default();
        let asked = Arc::clone(&changes);
        let heard = std::thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            let mut to = TcpStream::connect(before).unwrap();
            let (mut back, mut answers) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let answering = std::thread::spawn(move || io::copy(&mut answers, &mut back));
            let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(bytes @ 1..) = from.read(&mut buffer) {
                all.extend_from_slice(&buffer[..bytes]);
                if asked.swap(false, Ordering::SeqCst) {
                    buffer[bytes / 2] ^= 1;
                }
                if to.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = answering.join();
            all
        });
        Self {
            address,
            changes,
            heard,
        }
    }
}

/// Two ranks with somebody between them.
fn watched(encryption: Encryption) -> ([Group; 2], Between) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let between = Between::put(listeners[0].local_addr().unwrap());
    let lower = [between.address];
    let ranks = std::thread::scope(|scope| {
        let join = |rank: usize| {
            let (listener, lower) = (&listeners[rank], &lower[..rank]);
            scope.spawn(move || {
                let me = greeting(rank, 2, encryption);
                let streams = connected(listener, lower, (&me, "w")).unwrap();
                let transport = Arc::new(Sockets::start(rank, streams, TIMEOUT).unwrap());
                let group = MessageGroup::world(transport, rank, 2, TIMEOUT);
                Group::new(Box::new(group), "world")
            })
        };
        [0, 1].map(join).map(|rank| rank.join().unwrap())
    });
    (ranks, between)
}

#[test]
fn who_is_between_reads_nothing_of_encrypted_ranks() {
    for (encryption, is_read) in [(Encryption::None, true), (Encryption::Noise, false)] {
        let ([here, there], between) = watched(encryption);
        there.send(0, b"a lighthouse in fog").unwrap();
        assert_eq!(here.receive(1, None).unwrap(), b"a lighthouse in fog");
        drop((here, there));
        let heard = between.heard.join().unwrap();
        let reads = heard.windows(10).any(|part| part == b"lighthouse");
        assert_eq!(reads, is_read, "{encryption:?}");
    }
}

#[test]
fn a_byte_that_was_changed_on_its_way_ends_the_world() {
    let ([here, there], between) = watched(Encryption::Noise);
    there.send(0, b"one").unwrap();
    assert_eq!(here.receive(1, None).unwrap(), b"one");
    between.changes.store(true, Ordering::SeqCst);
    // A sign of life may be what is changed: then this is not sent any more, or sent to nobody.
    let _ = there.send(0, b"two");
    let error = here.receive(1, None).unwrap_err();
    assert!(error.is_resumable(), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("rank 1: what came was changed on its way"),
        "{said}"
    );
}

/// No connection comes about between ranks that do not agree.
#[test]
fn nobody_falls_back() {
    use Encryption::{Noise, None as Plain};
    for (mine, theirs, world, wanted) in [
        (Noise, Plain, "w", "OtherEncryption(Noise)"),
        (Plain, Noise, "w", "OtherEncryption(None)"),
        (Noise, Noise, "guess", "OtherWorld"),
    ] {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let lower = [listeners[0].local_addr().unwrap()];
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let me = Greeting {
                    collective_timeout: 1,
                    ..greeting(0, 2, mine)
                };
                connect(&listeners[0], &[], (&me, "w"), Duration::from_millis(1500))
            });
            let me = greeting(1, 2, theirs);
            let refused = connected(&listeners[1], &lower, (&me, world)).unwrap_err();
            assert!(refused.to_string().contains(wanted), "{refused}");
            assert!(first.join().unwrap().is_err());
        });
    }
}
