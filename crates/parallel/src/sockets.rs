//! A world of processes that talk over TCP: every two ranks share one connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::attend::attend;
use crate::call::{CALL_BYTES, Call, Kind};
use crate::element::Dtype;
use crate::error::CommError;
use crate::frame::{self, Greeting, LONGEST_GREETING, VERSION};
use crate::group::Group;
use crate::mailbox::{Mailbox, Message};
use crate::meeting::Meeting;
use crate::messages::{MessageGroup, Transport};

/// Where and who.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'a> {
    /// Where the world meets.
    pub(crate) meeting: &'a Meeting,
    /// Where this rank finds that place; its holder knows it better than others.
    pub(crate) at: &'a Meeting,
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

impl Address<'_> {
    /// How this rank introduces itself.
    fn greeting(&self, port: u16, patience: Duration) -> Greeting {
        Greeting {
            version: VERSION.to_owned(),
            world: self.meeting.world.clone(),
            size: self.size,
            rank: self.rank,
            port,
            patience: patience.as_secs(),
        }
    }
}

/// Programs start unevenly, whatever ranks have agreed on for later.
const GATHERING: Duration = Duration::from_secs(60);
/// Time that a caller has to introduce himself.
const GREETING: Duration = Duration::from_secs(5);

/// How long ranks wait for each other at the beginning; `patience` is that of their collectives.
pub(crate) fn gathering(patience: Duration) -> Duration {
    patience.max(GATHERING)
}

/// Joins the world that gathers at a meeting. `patience` is that of its collectives; to gather,
/// ranks have a minute at least.
pub(crate) fn join(address: Address, patience: Duration) -> Result<Group, CommError> {
    let gathering = gathering(patience);
    let failed = |error: io::Error| CommError::Setup(format!("connecting the world: {error}"));
    let Address { rank, size, .. } = address;
    let listener = listen(address.meeting).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let me = address.greeting(port, gathering);
    let addresses = attend(address.at, &me, gathering)?;
    let streams = connect(&listener, &addresses, &me, Instant::now() + gathering)?;
    let transport = Sockets::start(rank, streams).map_err(failed)?;
    let transport = Arc::new(transport);
    *WORLD.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&transport);
    let group = MessageGroup::world(transport, rank, size, patience);
    Ok(Group::new(Box::new(group), "world"))
}

/// Reachable from where the ranks meet: on this machine alone if they meet there.
fn listen(meeting: &Meeting) -> io::Result<TcpListener> {
    let local = meeting.is_local();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in meeting.listening(0) {
        // Whoever calls a place on loopback is seen to come from the first address there.
        let host: IpAddr = match (local, address) {
            (true, SocketAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (true, SocketAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            (false, _) if !address.ip().is_unspecified() => continue,
            (false, _) => address.ip(),
        };
        match TcpListener::bind((host, 0)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Calls all lower ranks and waits for the calls of the higher ones.
fn connect(
    listener: &TcpListener,
    addresses: &[SocketAddr],
    me: &Greeting,
    deadline: Instant,
) -> Result<Vec<Option<TcpStream>>, CommError> {
    let failed = |error: io::Error| CommError::Setup(format!("connecting the world: {error}"));
    let (rank, size) = (me.rank, me.size);
    let mut streams: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    for (lower, address) in addresses[..rank].iter().enumerate() {
        streams[lower] = Some(call(lower, *address, me, deadline)?);
    }
    listener.set_nonblocking(true).map_err(failed)?;
    while let Some(missing) = (rank + 1..size).find(|&rank| streams[rank].is_none()) {
        match listener.accept() {
            Ok((stream, peer)) => match caller(&stream, me) {
                Ok(caller) => streams[caller] = Some(stream),
                Err(error) => tracing::warn!(%peer, "a stranger was sent away: {error}"),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    let reason = format!("rank {missing} did not connect to rank {rank} in time");
                    return Err(CommError::Absent(reason));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(streams)
}

/// Calls a lower rank.
fn call(
    lower: usize,
    address: SocketAddr,
    me: &Greeting,
    deadline: Instant,
) -> Result<TcpStream, CommError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = left.max(Duration::from_millis(1));
    let greeted = TcpStream::connect_timeout(&address, left).and_then(|stream| {
        frame::write(&stream, &frame::Message::Greeting(me.clone()))?;
        Ok(stream)
    });
    greeted.map_err(|error| {
        let rank = me.rank;
        CommError::Absent(format!(
            "rank {rank} cannot reach rank {lower} at {address}: {error}; if that rank is there, \
             all ports between the machines must be open"
        ))
    })
}

/// Which higher rank of this world calls.
fn caller(stream: &TcpStream, me: &Greeting) -> io::Result<usize> {
    stream.set_nonblocking(false)?;
    let heard = frame::read(stream, LONGEST_GREETING, Instant::now() + GREETING)?;
    stream.set_read_timeout(None)?;
    match heard {
        frame::Message::Greeting(theirs)
            if (&theirs.version, &theirs.world, theirs.size)
                == (&me.version, &me.world, me.size)
                && (me.rank + 1..me.size).contains(&theirs.rank) =>
        {
            Ok(theirs.rank)
        }
        _ => Err(io::Error::other("it is no rank of this world")),
    }
}

#[derive(Debug)]
struct Sockets {
    rank: usize,
    mailbox: Arc<Mailbox>,
    /// The connection to each other rank, for writing.
    peers: Vec<Option<Mutex<TcpStream>>>,
}

/// The channel of the last words of a rank that ends for a reason of its own.
const FAREWELL: u64 = u64::MAX;
/// How long the other end may take to hear them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The world of this process, as long as there is one.
static WORLD: Mutex<Weak<Sockets>> = Mutex::new(Weak::new());
/// The code that another rank ended with, by its last words; negative for none.
static TOLD: AtomicI32 = AtomicI32::new(-1);

/// Tells the other ranks the code that this one ends with, so that they end with it too.
pub(crate) fn say_farewell(code: i32) {
    let world = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(world) = world.upgrade() {
        world.say_farewell(code);
    }
}

/// The code that another rank ended with, if it said so.
pub(crate) fn told() -> Option<i32> {
    let code = TOLD.load(Ordering::SeqCst);
    (code >= 0).then_some(code)
}

/// Channel, call and length of the payload.
const HEADER: usize = 8 + CALL_BYTES + 8;

impl Sockets {
    /// A thread per connection reads, so that two ranks may write to each other at once.
    fn start(rank: usize, streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let mut peers = Vec::with_capacity(streams.len());
        for (peer, stream) in streams.into_iter().enumerate() {
            let Some(stream) = stream else {
                peers.push(None);
                continue;
            };
            stream.set_nodelay(true)?;
            let (reader, mailbox) = (stream.try_clone()?, Arc::clone(&mailbox));
            std::thread::Builder::new()
                .name(format!("from rank {peer}"))
                .spawn(move || {
                    // Any end of the connection is the end of that rank.
                    let _ = read_all(reader, peer, &mailbox);
                    mailbox.close(peer);
                })?;
            peers.push(Some(Mutex::new(stream)));
        }
        Ok(Self {
            rank,
            mailbox,
            peers,
        })
    }
}

impl Sockets {
    fn say_farewell(&self, code: i32) {
        for peer in self.peers.iter().flatten() {
            // Who is just being written to by another thread learns only that this rank is gone.
            let Ok(mut peer) = peer.try_lock() else {
                continue;
            };
            let payload = code.to_le_bytes();
            let call = Call::new(Kind::Message, Dtype::Bytes, payload.len());
            let header = header(FAREWELL, &call, payload.len());
            // Nothing more can be done for who does not hear it.
            let _ = peer
                .set_write_timeout(Some(LAST_WORDS))
                .and_then(|()| peer.write_all(&[&header[..], &payload].concat()));
        }
    }
}

fn header(channel: u64, call: &Call, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&channel.to_le_bytes());
    header[8..8 + CALL_BYTES].copy_from_slice(&call.to_bytes());
    header[8 + CALL_BYTES..].copy_from_slice(&(length as u64).to_le_bytes());
    header
}

fn read_all(mut stream: TcpStream, peer: usize, mailbox: &Mailbox) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not a message");
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let (channel, rest) = header.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (call, length) = rest.split_first_chunk::<CALL_BYTES>().ok_or_else(wrong)?;
        let length = length.first_chunk::<8>().ok_or_else(wrong)?;
        let call = Call::from_bytes(call).ok_or_else(wrong)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| wrong())?;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        let channel = u64::from_le_bytes(*channel);
        if channel == FAREWELL {
            let code = payload.first_chunk().ok_or_else(wrong)?;
            TOLD.fetch_max(i32::from_le_bytes(*code), Ordering::SeqCst);
            continue;
        }
        mailbox.put(peer, channel, Message { call, payload });
    }
}

impl Transport for Sockets {
    fn post(&self, to: usize, channel: u64, message: Message) -> io::Result<()> {
        let Some(peer) = &self.peers[to] else {
            self.mailbox.put(self.rank, channel, message);
            return Ok(());
        };
        let header = header(channel, &message.call, message.payload.len());
        let mut peer = peer.lock().unwrap_or_else(PoisonError::into_inner);
        peer.write_all(&header)?;
        peer.write_all(&message.payload)
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for peer in self.peers.iter().flatten() {
            let peer = peer.lock().unwrap_or_else(PoisonError::into_inner);
            // The readers hold the connection too: without this it would stay open.
            let _ = peer.shutdown(std::net::Shutdown::Both);
        }
    }
}
