//! How ranks without MPI find each other: each tells one place where it listens, and is told where
//! all others do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::CommError;

/// Longest line that is read of a stranger.
const LONGEST: u64 = 256;

/// Collects the addresses of `size` ranks and sends each the whole list.
///
/// `stop` is asked from time to time; `true` gives up.
pub(crate) fn serve(
    listener: &TcpListener,
    size: usize,
    token: &str,
    stop: &dyn Fn() -> bool,
) -> Result<(), CommError> {
    let failed = |error: io::Error| CommError::Setup(format!("rendezvous: {error}"));
    listener.set_nonblocking(true).map_err(failed)?;
    let mut ranks: Vec<Option<(TcpStream, SocketAddr)>> = (0..size).map(|_| None).collect();
    while ranks.iter().any(Option::is_none) {
        if stop() {
            return Err(CommError::Setup("rendezvous: given up".to_owned()));
        }
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        match greet(&stream, peer, token) {
            Some((rank, address)) if rank < size && ranks[rank].is_none() => {
                ranks[rank] = Some((stream, address));
            }
            // Not one of us, or started twice: the others still come.
            _ => tracing::warn!(%peer, "a stranger at the rendezvous was sent away"),
        }
    }
    let list: Vec<String> = ranks
        .iter()
        .flatten()
        .map(|(_, address)| address.to_string())
        .collect();
    let line = format!("{}\n", list.join(" "));
    for (mut stream, _) in ranks.into_iter().flatten() {
        // Who has gone meanwhile is missed by the others soon enough.
        let _ = stream.write_all(line.as_bytes());
    }
    Ok(())
}

/// Rank and address of one who says the right words.
fn greet(stream: &TcpStream, peer: SocketAddr, token: &str) -> Option<(usize, SocketAddr)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST))
        .read_line(&mut line)
        .ok()?;
    let mut words = line.split_whitespace();
    let (theirs, rank, port) = (words.next()?, words.next()?, words.next()?);
    let port: u16 = port.parse().ok()?;
    (theirs == token).then_some((rank.parse().ok()?, SocketAddr::new(peer.ip(), port)))
}

/// Tells the rendezvous at `address` that `rank` listens at `port`; returns where all ranks do.
pub(crate) fn attend(
    address: &str,
    rank: usize,
    port: u16,
    token: &str,
    patience: Duration,
) -> Result<Vec<SocketAddr>, CommError> {
    let failed = |error: io::Error| {
        CommError::Setup(format!(
            "rank {rank} found no rendezvous at {address}: {error}"
        ))
    };
    let deadline = Instant::now() + patience;
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            // The rank that holds it may not have started yet.
            Err(error) if Instant::now() > deadline => return Err(failed(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    stream
        .set_read_timeout(Some(left.max(Duration::from_millis(1))))
        .map_err(failed)?;
    stream
        .write_all(format!("{token} {rank} {port}\n").as_bytes())
        .map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CommError::Absent(format!(
                "rank {rank} waited {} s at {address}, and not all ranks came; start the run again",
                patience.as_secs()
            )),
            _ => failed(error),
        })?;
    let addresses: Result<Vec<SocketAddr>, _> = line.split_whitespace().map(str::parse).collect();
    match addresses {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        _ => Err(CommError::Absent(format!(
            "the rendezvous at {address} ended before all ranks were there"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_vain_may_be_started_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = || over.load(std::sync::atomic::Ordering::Relaxed);
            scope.spawn(move || serve(&listener, 2, "token", &stop).unwrap_err());
            let error = attend(&address, 0, 1, "token", Duration::from_millis(200)).unwrap_err();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(matches!(error, CommError::Absent(_)), "{error}");
            assert!(error.is_resumable());
        });
        // Nobody listens there: that may be a wrong address.
        let error = attend("127.0.0.1:1", 0, 1, "token", Duration::ZERO).unwrap_err();
        assert!(matches!(error, CommError::Setup(_)), "{error}");
        assert!(!error.is_resumable());
    }
}
