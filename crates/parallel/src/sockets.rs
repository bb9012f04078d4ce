//! A world of processes that talk over TCP: every two ranks share one connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::attend::{self, Introduced, attend, introduce};
use crate::call::{Call, Kind};
use crate::element::Dtype;
use crate::error::CommError;
use crate::frame::{Greeting, Refusal, VERSION};
use crate::group::Group;
use crate::mailbox::{Mailbox, Message, Parting};
use crate::meeting::Meeting;
use crate::messages::{MessageGroup, Transport};
use crate::reception::{Caller, Reception};
use crate::rendezvous::has_left;
use crate::seal::{self, Encryption, Opened, Seal};
use crate::wire::HEADER;
use crate::{pulse, wire};

/// Where and who.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'a> {
    /// Where the world meets.
    pub(crate) meeting: &'a Meeting,
    /// Where this rank finds that place; its holder knows it better than others.
    pub(crate) at: &'a Meeting,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) encryption: Encryption,
}

impl Address<'_> {
    /// How this rank introduces itself.
    fn greeting(&self, port: u16, collective_timeout: Duration) -> Greeting {
        Greeting {
            version: VERSION.to_owned(),
            size: self.size,
            rank: self.rank,
            port,
            collective_timeout: collective_timeout.as_secs(),
            encryption: self.encryption,
            ..Greeting::default()
        }
    }
}

/// Programs start unevenly, whatever ranks have agreed on for later.
const GATHERING: Duration = Duration::from_secs(60);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Attempts to be heard by a rank that is there: strangers may be in the way.
const ATTEMPTS: usize = 5;

/// How long ranks wait for each other at the beginning; `collective_timeout` is that of their collectives.
pub(crate) fn gathering(collective_timeout: Duration) -> Duration {
    collective_timeout.max(GATHERING)
}

/// Joins the world that gathers at a meeting. `collective_timeout` is that of its collectives; to gather,
/// ranks have a minute at least.
pub(crate) fn join(address: Address, collective_timeout: Duration) -> Result<Group, CommError> {
    let gathering = gathering(collective_timeout);
    let failed = |error: io::Error| CommError::Setup(format!("connecting the world: {error}"));
    let Address { rank, size, .. } = address;
    let listener = listen(address.meeting).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let me = address.greeting(port, gathering);
    let addresses = attend(address.at, &me, gathering)?;
    let world = &address.meeting.world;
    let streams = connect(&listener, &addresses, (&me, world), gathering)?;
    let transport = Sockets::start(rank, streams, collective_timeout).map_err(failed)?;
    let transport = Arc::new(transport);
    *WORLD.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&transport);
    let group = MessageGroup::world(transport, rank, size, collective_timeout);
    Ok(Group::new(Box::new(group), "world"))
}

/// Reachable from where the ranks meet: on this machine alone if they meet there.
fn listen(meeting: &Meeting) -> io::Result<TcpListener> {
    let local = meeting.is_local();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in meeting.listening(0) {
        // Anyone who calls a place on loopback is seen to come from the first address there.
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

/// The connection to a rank, and its keys where it is encrypted.
type Line = (TcpStream, Option<Seal>);

/// Calls all lower ranks and waits for the calls of the higher ones.
fn connect(
    listener: &TcpListener,
    addresses: &[SocketAddr],
    (me, world): (&Greeting, &str),
    gathering: Duration,
) -> Result<Vec<Option<Line>>, CommError> {
    let failed = |error: io::Error| CommError::Absent(format!("connecting the world: {error}"));
    let deadline = Instant::now() + gathering;
    let (rank, size) = (me.rank, me.size);
    let mut streams: Vec<Option<Line>> = (0..size).map(|_| None).collect();
    // Who calls is heard at once, while this rank calls others.
    let reception = Reception::open(listener, world, size).map_err(failed)?;
    for (lower, address) in addresses[..rank].iter().enumerate() {
        streams[lower] = Some(call(lower, *address, (me, world), deadline)?);
    }
    while let Some(missing) = (rank + 1..size).find(|&rank| streams[rank].is_none()) {
        if let Some(caller) = reception.next(PAUSE).map_err(failed)? {
            admit(caller, me, &mut streams);
        }
        if Instant::now() > deadline {
            let seconds = gathering.as_secs();
            return Err(CommError::Absent(format!(
                "rank {missing} did not connect to rank {rank} within {seconds} s; start the run \
                 again"
            )));
        }
    }
    Ok(streams)
}

/// Calls a lower rank.
fn call(
    lower: usize,
    address: SocketAddr,
    (me, world): (&Greeting, &str),
    deadline: Instant,
) -> Result<Line, CommError> {
    let attempt = || {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = attend::call(address, left.max(Duration::from_millis(1)))?;
        match introduce(&stream, world, me, deadline)? {
            Introduced::Welcome(_, seal) => Ok((stream, seal)),
            Introduced::Refused(refusal) => Err(io::Error::other(format!(
                "it does not know this rank: {refusal:?}"
            ))),
        }
    };
    let may_pass = |error: &io::Error| {
        use io::ErrorKind::{ConnectionReset, TimedOut, UnexpectedEof};
        let is_cut = matches!(error.kind(), ConnectionReset | TimedOut | UnexpectedEof);
        is_cut && Instant::now() < deadline
    };
    let mut last = attempt();
    for _ in 1..ATTEMPTS {
        if !last.as_ref().is_err_and(may_pass) {
            break;
        }
        last = attempt();
    }
    last.map_err(|error| {
        let rank = me.rank;
        CommError::Absent(format!(
            "rank {rank} cannot reach rank {lower} at {address}: {error}; if that rank is there, \
             all ports between the machines must be open"
        ))
    })
}

/// Takes the call of a higher rank of this world.
fn admit(caller: Caller, me: &Greeting, streams: &mut [Option<Line>]) {
    let Greeting {
        rank,
        size,
        encryption,
        ..
    } = caller.greeting;
    if size != me.size || !(me.rank + 1..size).contains(&rank) {
        return caller.refuse(Refusal::OtherSize(me.size));
    }
    if encryption != me.encryption {
        return caller.refuse(Refusal::OtherEncryption(me.encryption));
    }
    // One that did not hear its welcome calls again.
    if streams[rank]
        .as_ref()
        .is_some_and(|(stream, _)| !has_left(stream))
    {
        return caller.refuse(Refusal::Taken);
    }
    if caller.welcome().is_ok() {
        streams[rank] = Some((caller.stream, caller.seal.map(|(seal, _)| seal)));
    }
}

/// The connection to another rank.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// The keys, where it is encrypted.
    seal: Option<Seal>,
    /// Held while a message is written.
    writing: Mutex<Pen>,
    /// Parts of messages that have come.
    heard: AtomicU64,
}

/// What is known of what was written.
#[derive(Debug, Default)]
struct Pen {
    /// Sealed records so far.
    records: u64,
    /// Sealed and not yet written.
    sealed: Vec<u8>,
}

/// Bytes that are sealed before they are written: a message of some records takes few calls.
const BATCH: usize = 256 << 10;

impl Connection {
    fn new((stream, seal): Line, collective_timeout: Duration) -> io::Result<Self> {
        /// A connection on which nothing is said is looked after by the system as well.
        const IDLE: Duration = Duration::from_secs(15);
        const BETWEEN: Duration = Duration::from_secs(5);
        /// Signs of life come first: they tell more.
        const LATER: Duration = Duration::from_secs(15);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let alive = TcpKeepalive::new().with_time(IDLE).with_interval(BETWEEN);
        socket.set_tcp_keepalive(&alive)?;
        socket.set_tcp_user_timeout(Some(collective_timeout.saturating_add(LATER)))?;
        Ok(Self {
            stream,
            seal,
            writing: Mutex::default(),
            heard: AtomicU64::new(0),
        })
    }

    fn write(&self, head: &[u8; HEADER], payload: &[u8]) -> io::Result<()> {
        let mut pen = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_with(&mut pen, head, payload)
    }

    fn write_with(&self, pen: &mut Pen, head: &[u8; HEADER], payload: &[u8]) -> io::Result<()> {
        let mut stream = &self.stream;
        let Some(seal) = &self.seal else {
            return stream
                .write_all(head)
                .and_then(|()| stream.write_all(payload));
        };
        pen.sealed.clear();
        for part in seal::records(head, payload) {
            seal.close(pen.records, part, &mut pen.sealed)?;
            pen.records += 1;
            if pen.sealed.len() >= BATCH {
                stream.write_all(&pen.sealed)?;
                pen.sealed.clear();
            }
        }
        stream.write_all(&pen.sealed)
    }

    /// Tells the other rank that this one lives, unless something is on its way to it anyway.
    pub(crate) fn send_pulse(&self) {
        let Ok(mut pen) = self.writing.try_lock() else {
            return;
        };
        let call = Call::new(Kind::Message, Dtype::Bytes, 0);
        let mut header = wire::header(PULSE, &call, 0).to_vec();
        if let Some(seal) = &self.seal {
            let plain = std::mem::take(&mut header);
            // What cannot be sealed is not sent, and the next sign comes in a second.
            if seal.close(pen.records, &plain, &mut header).is_err() {
                return;
            }
        }
        let socket = SockRef::from(&self.stream);
        // Where there is no room the other end has not read what was sent before.
        if let Ok(sent @ 1..) = socket.send_with_flags(&header, libc::MSG_DONTWAIT) {
            // A record of which nothing was sent has not used its number up.
            pen.records += 1;
            // What is left of a head, which is next to never anything, belongs to it. If that fails
            // the connection is at its end, which its reader finds.
            let _ = (&self.stream).write_all(&header[sent..]);
        }
    }

    /// How many parts of messages have come.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Ends the connection for all that read or write.
    pub(crate) fn hang_up(&self) {
        // It may be at its end already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Reads and notes that something came.
struct Ear<'a>(&'a Connection);

impl Read for Ear<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = (&self.0.stream).read(buffer)?;
        self.0.heard.fetch_add(1, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[derive(Debug)]
struct Sockets {
    rank: usize,
    mailbox: Arc<Mailbox>,
    /// The connection to each other rank.
    peers: Arc<[Option<Arc<Connection>>]>,
    /// Dropped with the world, which ends the thread that watches over it.
    _over: Sender<()>,
}

/// The channel of the last words of a rank that ends for a reason of its own.
const FAREWELL: u64 = u64::MAX;
/// The channel of signs of life.
const PULSE: u64 = u64::MAX - 1;
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

impl Sockets {
    /// A thread per connection reads, so that two ranks may write to each other at once; one more
    /// watches over all.
    fn start(
        rank: usize,
        streams: Vec<Option<Line>>,
        collective_timeout: Duration,
    ) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let connect = |stream: Option<Line>| {
            let connection = stream.map(|stream| Connection::new(stream, collective_timeout));
            connection.transpose().map(|found| found.map(Arc::new))
        };
        let peers: Vec<_> = streams
            .into_iter()
            .map(connect)
            .collect::<io::Result<_>>()?;
        for (peer, connection) in peers.iter().enumerate() {
            let Some(connection) = connection.clone() else {
                continue;
            };
            let mailbox = Arc::clone(&mailbox);
            std::thread::Builder::new()
                .name(format!("from rank {peer}"))
                .spawn(move || {
                    let end = read_all(&connection, peer, &mailbox);
                    mailbox.close(peer, parting(&end));
                })?;
        }
        let peers: Arc<[_]> = peers.into();
        let (over, is_over) = channel();
        let (watched, told) = (Arc::clone(&peers), Arc::clone(&mailbox));
        std::thread::Builder::new()
            .name("ranks".to_owned())
            .spawn(move || pulse::keep_watch(&watched, &told, collective_timeout, &is_over))?;
        Ok(Self {
            rank,
            mailbox,
            peers,
            _over: over,
        })
    }

    fn say_farewell(&self, code: i32) {
        for peer in self.peers.iter().flatten() {
            // Who is just being written to by another thread learns only that this rank is gone.
            let Ok(mut pen) = peer.writing.try_lock() else {
                continue;
            };
            let payload = code.to_le_bytes();
            let call = Call::new(Kind::Message, Dtype::Bytes, payload.len());
            let header = wire::header(FAREWELL, &call, payload.len());
            // Nothing more can be done for who does not hear it.
            let _ = peer
                .stream
                .set_write_timeout(Some(LAST_WORDS))
                .and_then(|()| peer.write_with(&mut pen, &header, &payload));
        }
    }
}

/// Reads what another rank says, to the end of the connection.
fn read_all(connection: &Connection, peer: usize, mailbox: &Mailbox) -> io::Error {
    let mut ear = Ear(connection);
    match &connection.seal {
        None => take_in(&mut ear, peer, mailbox),
        Some(seal) => take_in(&mut Opened::new(ear, seal), peer, mailbox),
    }
}

fn take_in(ear: &mut impl Read, peer: usize, mailbox: &Mailbox) -> io::Error {
    loop {
        let (channel, message) = match wire::read(ear) {
            Ok(read) => read,
            Err(error) => return error,
        };
        match channel {
            PULSE => {}
            FAREWELL => {
                let code = message.payload.first_chunk().copied();
                TOLD.fetch_max(
                    i32::from_le_bytes(code.unwrap_or_default()),
                    Ordering::SeqCst,
                );
            }
            _ => mailbox.put(peer, channel, message),
        }
    }
}

/// What the end of a connection says of the rank there.
fn parting(end: &io::Error) -> Parting {
    match end.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::OutOfMemory => Parting::Broken(end.to_string()),
        // Any other end of the connection is the end of that rank.
        _ => Parting::Ended,
    }
}

impl Transport for Sockets {
    fn post(&self, to: usize, channel: u64, message: Message) -> io::Result<()> {
        let Some(peer) = &self.peers[to] else {
            self.mailbox.put(self.rank, channel, message);
            return Ok(());
        };
        let header = wire::header(channel, &message.call, message.payload.len());
        peer.write(&header, &message.payload)
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for peer in self.peers.iter().flatten() {
            // The readers hold the connection too: without this it would stay open. What is being
            // written is written first.
            let _writing = peer.writing.lock().unwrap_or_else(PoisonError::into_inner);
            peer.hang_up();
        }
    }
}

#[cfg(test)]
#[path = "sockets_test.rs"]
mod tests;
