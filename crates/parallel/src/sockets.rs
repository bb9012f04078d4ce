//! A world of processes that talk over TCP: every two ranks share one connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::call::{CALL_BYTES, Call};
use crate::error::CommError;
use crate::group::Group;
use crate::mailbox::{Mailbox, Message};
use crate::messages::{MessageGroup, Transport};
use crate::rendezvous;

/// Where and who.
pub(crate) struct Address<'a> {
    pub(crate) rendezvous: &'a str,
    pub(crate) token: &'a str,
    pub(crate) rank: usize,
    pub(crate) size: usize,
}

/// Programs start unevenly, whatever ranks have agreed on for later.
const GATHERING: Duration = Duration::from_secs(60);

/// Joins the world that gathers at a rendezvous. `patience` is that of its collectives; to gather,
/// ranks have a minute at least.
pub(crate) fn join(address: &Address, patience: Duration) -> Result<Group, CommError> {
    let gathering = patience.max(GATHERING);
    let failed = |error: io::Error| CommError::Setup(format!("connecting the world: {error}"));
    let Address {
        rank, size, token, ..
    } = *address;
    // Reachable from where the rendezvous is: on this machine alone if that is.
    let local = address.rendezvous.starts_with("127.");
    let listener = TcpListener::bind(if local { "127.0.0.1:0" } else { "0.0.0.0:0" });
    let listener = listener.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let addresses = rendezvous::attend(address.rendezvous, rank, port, token, gathering)?;
    if addresses.len() != size {
        let found = addresses.len();
        let reason = format!("the rendezvous knows {found} ranks, this one {size}");
        return Err(CommError::Setup(reason));
    }
    let streams = connect(&listener, &addresses, address, gathering)?;
    let transport = Sockets::start(rank, streams).map_err(failed)?;
    let group = MessageGroup::world(Arc::new(transport), rank, size, patience);
    Ok(Group::new(Box::new(group), "world"))
}

/// Calls all lower ranks and waits for the calls of the higher ones.
fn connect(
    listener: &TcpListener,
    addresses: &[SocketAddr],
    address: &Address,
    patience: Duration,
) -> Result<Vec<Option<TcpStream>>, CommError> {
    let failed = |error: io::Error| CommError::Setup(format!("connecting the world: {error}"));
    let (rank, size) = (address.rank, address.size);
    let mut streams: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
    for (lower, address_of) in addresses[..rank].iter().enumerate() {
        let mut stream = TcpStream::connect(address_of).map_err(failed)?;
        let hello = format!("{:>32} {rank:>8}\n", address.token);
        stream.write_all(hello.as_bytes()).map_err(failed)?;
        streams[lower] = Some(stream);
    }
    listener.set_nonblocking(true).map_err(failed)?;
    let deadline = Instant::now() + patience;
    while let Some(missing) = (rank + 1..size).find(|&rank| streams[rank].is_none()) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false).map_err(failed)?;
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .map_err(failed)?;
                let mut hello = [0; 42];
                if stream.read_exact(&mut hello).is_err() {
                    continue;
                }
                let hello = String::from_utf8_lossy(&hello);
                let mut words = hello.split_whitespace();
                let token = if address.token.is_empty() {
                    Some("")
                } else {
                    words.next()
                };
                let caller = words.next().and_then(|word| word.parse::<usize>().ok());
                if let Some(caller) = caller.filter(|&caller| rank < caller && caller < size)
                    && token == Some(address.token)
                {
                    stream.set_read_timeout(None).map_err(failed)?;
                    streams[caller] = Some(stream);
                }
            }
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

#[derive(Debug)]
struct Sockets {
    rank: usize,
    mailbox: Arc<Mailbox>,
    /// The connection to each other rank, for writing.
    peers: Vec<Option<Mutex<TcpStream>>>,
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
        mailbox.put(
            peer,
            u64::from_le_bytes(*channel),
            Message { call, payload },
        );
    }
}

impl Transport for Sockets {
    fn post(&self, to: usize, channel: u64, message: Message) -> io::Result<()> {
        let Some(peer) = &self.peers[to] else {
            self.mailbox.put(self.rank, channel, message);
            return Ok(());
        };
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&channel.to_le_bytes());
        header[8..8 + CALL_BYTES].copy_from_slice(&message.call.to_bytes());
        let length = message.payload.len() as u64;
        header[8 + CALL_BYTES..].copy_from_slice(&length.to_le_bytes());
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
