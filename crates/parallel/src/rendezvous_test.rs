//! Both sides of a gathering: who comes, who does not, and who does not belong.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::attend::{Introduced, attend, hold, introduce};
use crate::frame::VERSION;
use crate::meeting::{Holder, Meeting};

/// What takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);

fn meeting(port: u16) -> Meeting {
    Meeting {
        host: "127.0.0.1".to_owned(),
        ports: vec![port],
        world: "w".to_owned(),
        holder: Holder::RankZero,
    }
}

fn greeting(rank: usize, size: usize) -> Greeting {
    Greeting {
        version: VERSION.to_owned(),
        size,
        rank,
        port: 1000 + rank as u16,
        collective_timeout: TIMEOUT.as_secs(),
        ..Greeting::default()
    }
}

/// A rank that is welcome and then says nothing more.
fn introduced(at: &Meeting, me: &Greeting) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", at.ports[0])).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let answer = introduce(&stream, &at.world, me, deadline).unwrap();
    assert!(matches!(answer, Introduced::Welcome(..)));
    stream
}

/// A rendezvous for `size` ranks, and what comes of it.
fn gather<T>(size: usize, ranks: impl FnOnce(&Meeting) -> T) -> (Result<(), CommError>, T) {
    gather_with(Some(Encryption::None), size, ranks)
}

/// The same for ranks that agree on `encryption`.
fn gather_with<T>(
    encryption: Option<Encryption>,
    size: usize,
    ranks: impl FnOnce(&Meeting) -> T,
) -> (Result<(), CommError>, T) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = meeting(listener.local_addr().unwrap().port());
    let over = AtomicBool::new(false);
    let stop = || over.load(Ordering::Relaxed);
    let expected = Expected {
        size,
        world: "w",
        encryption,
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, expected, &stop));
        let told = ranks(&at);
        over.store(true, Ordering::Relaxed);
        (server.join().unwrap(), told)
    })
}

/// Ranks that come one after the other, in this order; what each is told.
fn come(at: &Meeting, greetings: &[Greeting]) -> Vec<Result<Vec<SocketAddr>, CommError>> {
    std::thread::scope(|scope| {
        let come = |me| scope.spawn(move || attend(at, me, TIMEOUT));
        let ranks: Vec<_> = greetings.iter().map(come).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn all_learn_where_all_are_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let (served, told) = gather(3, |at| come(at, &order.map(|rank| greeting(rank, 3))));
        served.unwrap();
        let wanted: Vec<SocketAddr> = [1000, 1001, 1002]
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .into();
        for told in told {
            assert_eq!(told.unwrap(), wanted);
        }
    }
}

#[test]
fn strangers_keep_nobody_waiting() {
    let (served, told) = gather(2, |at| {
        let address = ("127.0.0.1", at.ports[0]);
        // One says nothing, one something else, one the words of earlier versions.
        let _silent = TcpStream::connect(address).unwrap();
        for words in ["GET / HTTP/1.1\r\n\r\n", " 1 4242\n"] {
            let mut stranger = TcpStream::connect(address).unwrap();
            stranger.write_all(words.as_bytes()).unwrap();
        }
        come(at, &[greeting(1, 2), greeting(0, 2)])
    });
    served.unwrap();
    assert!(told.iter().all(Result::is_ok), "{told:?}");
}

#[test]
fn who_did_not_come_is_named_to_all() {
    let hurried = |rank| Greeting {
        collective_timeout: 1,
        ..greeting(rank, 4)
    };
    let (served, told) = gather(4, |at| come(at, &[hurried(0), hurried(2)]));
    assert!(served.is_err());
    for told in told {
        let error = told.unwrap_err();
        assert!(error.is_resumable(), "{error}");
        let said = error.to_string();
        assert!(said.contains("ranks 1, 3 of 4 did not come"), "{said}");
    }
}

#[test]
fn who_does_not_belong_is_told_why() {
    let others = [
        (
            Greeting {
                version: "0.0.1".to_owned(),
                ..greeting(1, 2)
            },
            "use one version",
        ),
        (greeting(1, 3), "waits for 2 ranks, and this is rank 1 of 3"),
        (greeting(0, 2), "another process is this rank already"),
    ];
    for (other, wanted) in others {
        let (served, told) = gather(2, |at| {
            let _first = introduced(at, &greeting(0, 2));
            let refused = attend(at, &other, TIMEOUT).unwrap_err();
            // The place is still there for who belongs to it.
            (refused, come(at, &[greeting(1, 2)]).remove(0))
        });
        served.unwrap();
        let (refused, welcome) = told;
        assert!(!refused.is_resumable());
        assert!(refused.to_string().contains(wanted), "{refused}");
        assert_eq!(welcome.unwrap().len(), 2);
    }
}

/// Anyone who holds the place says which it is, or the first that comes where a launcher holds it.
#[test]
fn who_encrypts_otherwise_is_sent_away_with_both_settings() {
    let me = |rank, encryption| Greeting {
        encryption,
        ..greeting(rank, 2)
    };
    for (mine, theirs) in [
        (Encryption::Noise, Encryption::None),
        (Encryption::None, Encryption::Noise),
    ] {
        for held in [Some(mine), None] {
            let (served, told) = gather_with(held, 2, |at| {
                let _first = introduced(at, &me(0, mine));
                let refused = attend(at, &me(1, theirs), TIMEOUT).unwrap_err();
                (refused, come(at, &[me(1, mine)]).remove(0))
            });
            served.unwrap();
            let (refused, welcome) = told;
            assert!(!refused.is_resumable(), "{refused}");
            let said = refused.to_string();
            let settings = format!("is {:?} there and {:?} here", mine.name(), theirs.name());
            assert!(said.contains("do not agree on encryption"), "{said}");
            assert!(said.contains(&settings), "{said}");
            assert_eq!(welcome.unwrap().len(), 2);
        }
    }
}

#[test]
fn a_rank_that_was_started_again_takes_its_place() {
    let (served, told) = gather(2, |at| {
        drop(introduced(at, &greeting(1, 2)));
        come(at, &[greeting(1, 2), greeting(0, 2)])
    });
    served.unwrap();
    assert!(told.iter().all(Result::is_ok), "{told:?}");
}

#[test]
fn another_world_is_passed_by() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let over = AtomicBool::new(false);
    let stop = || over.load(Ordering::Relaxed);
    let expected = Expected {
        size: 2,
        world: "x",
        encryption: Some(Encryption::None),
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&other, expected, &stop));
        let (served, told) = gather(1, |at| {
            let taken = other.local_addr().unwrap().port();
            let both = Meeting {
                ports: vec![taken, at.ports[0]],
                ..at.clone()
            };
            attend(&both, &greeting(0, 1), TIMEOUT)
        });
        served.unwrap();
        assert_eq!(told.unwrap().len(), 1);
        over.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap_err();
    });
}

#[test]
fn the_first_rank_takes_the_first_free_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [&taken, &free].map(|listener| listener.local_addr().unwrap().port());
    drop(free);
    let both = Meeting {
        ports: ports.to_vec(),
        ..meeting(0)
    };
    let held = hold(&both, TIMEOUT).unwrap();
    assert_eq!(held.local_addr().unwrap().port(), ports[1]);
    // All are taken: that may pass.
    let error = hold(&both, Duration::ZERO).unwrap_err();
    assert!(error.is_resumable());
    assert!(error.to_string().contains("MASTER_PORT"), "{error}");
}

#[test]
fn where_nobody_is_there_may_be_somebody_later() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let error = attend(&meeting(port), &greeting(1, 2), Duration::from_millis(200)).unwrap_err();
    assert!(error.is_resumable());
    let said = error.to_string();
    assert!(said.contains("rank 1 of 2 waited"), "{said}");
    assert!(said.contains("for rank 0 at 127.0.0.1:"), "{said}");
}

/// A launcher listens before its ranks are there: they need not wait for it as for another rank.
#[test]
fn a_launcher_that_is_gone_is_not_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Meeting {
        holder: Holder::Launcher,
        ..meeting(free.local_addr().unwrap().port())
    };
    drop(free);
    let began = Instant::now();
    let error = attend(&at, &greeting(1, 2), TIMEOUT).unwrap_err();
    assert!(error.is_resumable());
    assert!(error.to_string().contains("launcher has ended"), "{error}");
    assert!(began.elapsed() < TIMEOUT);
}

/// One letter now and then, and a hundred who say nothing.
#[test]
fn slow_and_silent_strangers_keep_nobody_waiting() {
    let (served, told) = gather(2, |at| {
        let address = ("127.0.0.1", at.ports[0]);
        let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(address)).collect();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut slow = TcpStream::connect(address).unwrap();
                while !over.load(Ordering::Relaxed) && slow.write_all(b"s").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let told = come(at, &[greeting(0, 2), greeting(1, 2)]);
            over.store(true, Ordering::Relaxed);
            drop(silent);
            told
        })
    });
    served.unwrap();
    assert!(told.iter().all(Result::is_ok), "{told:?}");
}

/// A rank of an earlier version is told which versions do not fit, in words that it understands.
#[test]
fn earlier_versions_are_told_so() {
    let (served, told) = gather(1, |at| {
        let old = TcpStream::connect(("127.0.0.1", at.ports[0])).unwrap();
        let old_greeting = Greeting {
            version: "0.1.0".to_owned(),
            world: "w".to_owned(),
            ..greeting(0, 1)
        };
        frame::write(&old, &Message::Greeting(old_greeting)).unwrap();
        let answer = frame::read(&old, 4096, Instant::now() + TIMEOUT).unwrap();
        (answer, come(at, &[greeting(0, 1)]).remove(0))
    });
    served.unwrap();
    let refusal = Refusal::OtherVersion(VERSION.to_owned());
    assert_eq!(told.0, Message::Refused(refusal));
    told.1.unwrap();
}

/// Anyone who holds the port without knowing the secret learns nothing, and is not believed.
#[test]
fn who_squats_at_the_place_is_not_believed() {
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Meeting {
        world: "open-sesame".to_owned(),
        ..meeting(squatter.local_addr().unwrap().port())
    };
    let rank = std::thread::spawn(move || attend(&at, &greeting(1, 2), Duration::from_millis(300)));
    let deadline = Instant::now() + TIMEOUT;
    let (stream, _) = squatter.accept().unwrap();
    let greeted = frame::read(&stream, 4096, deadline).unwrap();
    frame::write(&stream, &Message::Challenge("00".to_owned())).unwrap();
    let proof = frame::read(&stream, 4096, deadline).unwrap();
    assert!(!format!("{greeted:?}{proof:?}").contains("sesame"));
    let Message::Proof(proof) = proof else {
        panic!("{proof:?}")
    };
    // What it was told proves nothing to others.
    frame::write(&stream, &Message::Welcome(proof)).unwrap();
    drop((stream, squatter));
    let error = rank.join().unwrap().unwrap_err();
    assert!(error.is_resumable(), "{error}");
}

#[test]
fn loopback_is_told_as_the_others_reach_it() {
    let list = |text: &str| -> Vec<SocketAddr> {
        text.split(' ')
            .map(|address| address.parse().unwrap())
            .collect()
    };
    let mixed = list("127.0.0.1:1 [::1]:2 10.0.0.9:3");
    let seen = |there: &str| as_seen_from(mixed.clone(), there.parse().unwrap());
    assert_eq!(seen("127.0.1.1"), mixed);
    assert_eq!(seen("10.0.0.1"), list("10.0.0.1:1 10.0.0.1:2 10.0.0.9:3"));
    assert_eq!(seen("::ffff:10.0.0.1"), seen("10.0.0.1"));
}
