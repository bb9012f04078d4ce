//! Those who call where ranks meet. Each is listened to on a thread of its own, for a few seconds and
//! together with a bounded number of others: one who says nothing, or one letter now and then, keeps
//! nobody waiting, however many of them there are.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::frame::{self, Greeting, LONGEST_GREETING, Message, Refusal, VERSION};
use crate::proof::{Claim, Conversation, nonce};
use crate::seal::{self, Encryption, Seal};

/// Time that a caller has to introduce himself, from the first byte to the last.
const GREETING: Duration = Duration::from_secs(5);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Strangers who may be listened to at a time, beside all ranks. The one that came first is sent away
/// for the next one: a rank has said everything within milliseconds.
const STRANGERS: usize = 64;
/// Strangers that the log warns of; of more it would grow as they please.
const TOLD: usize = 8;
/// Stack of a thread that reads a few short texts.
const STACK: usize = 256 << 10;

/// A rank that has introduced itself and proven that it knows the secret of its world.
pub(crate) struct Caller {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) greeting: Greeting,
    pub(crate) conversation: Conversation,
    /// The keys of the connection and what the rank has to hear of them, where it is encrypted.
    pub(crate) seal: Option<(Seal, Vec<u8>)>,
}

impl Caller {
    /// Tells the rank that it belongs here.
    pub(crate) fn welcome(&self) -> io::Result<()> {
        let proof = self.conversation.prove(Claim::IsOfTheWorld);
        frame::write(&self.stream, &Message::Welcome(proof))?;
        match &self.seal {
            Some((_, answer)) => frame::write(&self.stream, &Message::Handshake(answer.clone())),
            None => Ok(()),
        }
    }

    /// Sends the rank away.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        let (peer, rank) = (self.peer, self.greeting.rank);
        tracing::warn!(%peer, rank, "who calls itself a rank was sent away: {refusal:?}");
        // Who does not hear it has gone again.
        let _ = frame::write(&self.stream, &Message::Refused(refusal));
    }
}

/// Takes calls as long as it lives.
pub(crate) struct Reception {
    callers: Receiver<io::Result<Caller>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reception {
    /// Takes the calls at `listener` for a world of `size` ranks with the secret `world`.
    pub(crate) fn open(listener: &TcpListener, world: &str, size: usize) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let (heard, callers) = channel();
        let over = Arc::<AtomicBool>::default();
        let acceptor = Acceptor {
            heard,
            world: Arc::from(world),
            most: size + STRANGERS,
            strangers: Arc::default(),
            open: VecDeque::new(),
        };
        let is_over = Arc::clone(&over);
        let thread = Builder::new()
            .name("reception".to_owned())
            .spawn(move || acceptor.take_calls(&listener, &is_over))?;
        Ok(Self {
            callers,
            over,
            thread: Some(thread),
        })
    }

    /// The next rank that has introduced itself, if there is one within `wait`.
    ///
    /// # Errors
    /// The system refuses to listen any more.
    pub(crate) fn next(&self, wait: Duration) -> io::Result<Option<Caller>> {
        match self.callers.recv_timeout(wait) {
            Ok(caller) => caller.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("nobody takes calls")),
        }
    }
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

/// The thread that takes the calls.
struct Acceptor {
    heard: Sender<io::Result<Caller>>,
    world: Arc<str>,
    most: usize,
    strangers: Arc<AtomicUsize>,
    /// Connections of those who are listened to, the oldest first.
    open: VecDeque<Weak<TcpStream>>,
}

impl Acceptor {
    fn take_calls(mut self, listener: &TcpListener, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, peer)) => self.listen_to(stream, peer),
                Err(error) if is_passing(&error) => std::thread::sleep(PAUSE),
                Err(error) if is_shortage(&error) => {
                    self.end_oldest();
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    // Anyone who waits for calls is told; nobody waits any more if not.
                    let _ = self.heard.send(Err(error));
                    return;
                }
            }
        }
        while !self.open.is_empty() {
            self.end_oldest();
        }
    }

    fn listen_to(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.open.retain(|stream| stream.strong_count() > 0);
        while self.open.len() >= self.most {
            self.end_oldest();
        }
        let stream = Arc::new(stream);
        self.open.push_back(Arc::downgrade(&stream));
        let (heard, world) = (self.heard.clone(), Arc::clone(&self.world));
        let strangers = Arc::clone(&self.strangers);
        let listen = move || match converse(&stream, &world) {
            Ok(Heard {
                greeting,
                conversation,
                seal,
            }) => {
                let owned = stream.try_clone();
                drop(stream);
                let caller = owned.map(|stream| Caller {
                    stream,
                    peer,
                    greeting,
                    conversation,
                    seal,
                });
                // Nobody hears it when all are there. Without a file for it, the rank comes again.
                if let Ok(caller) = caller {
                    let _ = heard.send(Ok(caller));
                }
            }
            Err(error) if strangers.fetch_add(1, Ordering::Relaxed) < TOLD => {
                tracing::warn!(%peer, "a stranger was sent away: {error}");
            }
            Err(error) => tracing::debug!(%peer, "a stranger was sent away: {error}"),
        };
        // Where no thread can be had, the caller is sent away and comes again.
        let _ = Builder::new()
            .name("rendezvous".to_owned())
            .stack_size(STACK)
            .spawn(listen);
    }

    fn end_oldest(&mut self) {
        let oldest = self.open.pop_front().and_then(|oldest| oldest.upgrade());
        if let Some(stream) = oldest {
            // It may have gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Nobody is there, or somebody was and has gone again.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    let kind = error.kind();
    matches!(
        kind,
        WouldBlock | Interrupted | ConnectionAborted | ConnectionReset
    )
}

/// This process or the system has no file or memory left for a connection, which is transient.
fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]
        .into_iter()
        .any(|shortage| code == Some(shortage))
}

/// What somebody has said who knows the secret of the world.
pub(crate) struct Heard {
    greeting: Greeting,
    conversation: Conversation,
    seal: Option<(Seal, Vec<u8>)>,
}

/// Hears who calls and that it knows the secret of the world.
pub(crate) fn converse(stream: &TcpStream, world: &str) -> io::Result<Heard> {
    let deadline = Instant::now() + GREETING;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(GREETING))?;
    // What is said in two parts is not held back.
    stream.set_nodelay(true)?;
    let greeting = match frame::read(stream, LONGEST_GREETING, deadline)? {
        Message::Greeting(greeting) => greeting,
        _ => return Err(io::Error::other("it did not greet")),
    };
    if greeting.version != VERSION {
        let refusal = Refusal::OtherVersion(VERSION.to_owned());
        frame::write(stream, &Message::Refused(refusal))?;
        let theirs = greeting.version;
        return Err(io::Error::other(format!(
            "it runs storyloom {theirs:?}, this rank {VERSION:?}: use one version"
        )));
    }
    let nonce = nonce()?;
    let conversation = Conversation::new(world, &greeting, nonce.clone())?;
    frame::write(stream, &Message::Challenge(nonce))?;
    match frame::read(stream, LONGEST_GREETING, deadline)? {
        Message::Proof(proof) if conversation.is_proof(Claim::IsRank, &proof) => {
            let seal = match greeting.encryption {
                Encryption::None => None,
                Encryption::Noise => match frame::read(stream, LONGEST_GREETING, deadline)? {
                    Message::Handshake(first) => Some(seal::answer(&conversation, &first)?),
                    _ => return Err(io::Error::other("it does not encrypt as it said")),
                },
            };
            Ok(Heard {
                greeting,
                conversation,
                seal,
            })
        }
        _ => {
            frame::write(stream, &Message::Refused(Refusal::OtherWorld))?;
            Err(io::Error::other(
                "it does not know the secret of this world",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// What takes longer has hung.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn connect(listener: &TcpListener) -> TcpStream {
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    fn greeting() -> Greeting {
        Greeting {
            version: VERSION.to_owned(),
            size: 2,
            rank: 1,
            port: 1001,
            collective_timeout: 60,
            nonce: nonce().unwrap(),
            ..Greeting::default()
        }
    }

    /// Greets, and proves to know `world`.
    fn introduce(stream: &TcpStream, world: &str) -> Conversation {
        let me = greeting();
        frame::write(stream, &Message::Greeting(me.clone())).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        let Message::Challenge(nonce) = frame::read(stream, 4096, deadline).unwrap() else {
            panic!("no challenge");
        };
        let conversation = Conversation::new(world, &me, nonce).unwrap();
        let proof = conversation.prove(Claim::IsRank);
        frame::write(stream, &Message::Proof(proof)).unwrap();
        conversation
    }

    #[test]
    fn any_number_of_silent_strangers_keeps_nobody_waiting() {
        let listener = listener();
        let reception = Reception::open(&listener, "secret", 2).unwrap();
        let strangers: Vec<_> = (0..3 * STRANGERS).map(|_| connect(&listener)).collect();
        let stream = connect(&listener);
        introduce(&stream, "secret");
        let caller = reception.next(TIMEOUT).unwrap().unwrap();
        assert_eq!((caller.greeting.rank, caller.greeting.port), (1, 1001));
        // Most of them have been sent away meanwhile, long before their time was over.
        let mut gone = strangers.iter().take(STRANGERS);
        assert!(gone.all(|mut stranger| !matches!(stranger.read(&mut [0]), Ok(1..))));
    }

    #[test]
    fn who_does_not_know_the_secret_is_no_caller() {
        let listener = listener();
        let reception = Reception::open(&listener, "secret", 2).unwrap();
        let stream = connect(&listener);
        introduce(&stream, "guess");
        let deadline = Instant::now() + TIMEOUT;
        let answer = frame::read(&stream, 4096, deadline).unwrap();
        assert_eq!(answer, Message::Refused(Refusal::OtherWorld));
        // A proof that was heard elsewhere is none here.
        let (first, second) = (connect(&listener), connect(&listener));
        let heard = introduce(&first, "secret").prove(Claim::IsRank);
        frame::write(&second, &Message::Greeting(greeting())).unwrap();
        frame::read(&second, 4096, deadline).unwrap();
        frame::write(&second, &Message::Proof(heard)).unwrap();
        let answer = frame::read(&second, 4096, deadline).unwrap();
        assert_eq!(answer, Message::Refused(Refusal::OtherWorld));
        assert!(reception.next(TIMEOUT).unwrap().is_some(), "the first");
        assert!(reception.next(Duration::ZERO).unwrap().is_none());
    }

    /// The secret is nowhere among the bytes of a whole meeting.
    #[test]
    fn nobody_is_told_the_secret() {
        let listener = listener();
        let reception = Reception::open(&listener, "open-sesame", 2).unwrap();
        let (proxy, calls) = (self::listener(), connect(&listener));
        let client = std::thread::spawn({
            let proxy = proxy.local_addr().unwrap();
            move || introduce(&TcpStream::connect(proxy).unwrap(), "open-sesame")
        });
        let (rank, _) = proxy.accept().unwrap();
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(bytes @ 1..) = from.read(&mut buffer) {
                    all.extend_from_slice(&buffer[..bytes]);
                    let _ = to.write_all(&buffer[..bytes]);
                }
                all
            })
        };
        let there = copy(rank.try_clone().unwrap(), calls.try_clone().unwrap());
        let back = copy(calls, rank);
        let caller = reception.next(TIMEOUT).unwrap().unwrap();
        client.join().unwrap();
        drop((caller, reception));
        for bytes in [there.join().unwrap(), back.join().unwrap()] {
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                text.contains("nonce") || text.contains("challenge"),
                "{text}"
            );
            assert!(!text.contains("sesame"), "{text}");
        }
    }
}
