//! Doors for the fuzz targets of `tests/fuzz`: whatever bytes another end sends, nothing here may panic,
//! wait or take more memory than the bytes are worth.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::attend::introduce;
use crate::frame::{self, Greeting, LONGEST_LIST, VERSION};
use crate::proof::{Claim, Conversation};
use crate::seal::{self, Handshake};
use crate::{reception, wire};

const WORLD: &str = "secret";
/// Nobody waits so long for bytes that are all there.
const LONGEST: Duration = Duration::from_secs(5);

/// A connection of which the other end has sent `bytes` and nothing more, and that end.
fn connection(bytes: &[u8]) -> Option<(TcpStream, UnixStream)> {
    let (mut there, here) = UnixStream::pair().ok()?;
    there.set_nonblocking(true).ok()?;
    // What has no room would not be read before it is refused.
    let _ = there.write(bytes);
    there.shutdown(Shutdown::Write).ok()?;
    Some((TcpStream::from(OwnedFd::from(here)), there))
}

/// Messages of a rank of this world.
pub fn read_messages(mut bytes: &[u8]) {
    let length = bytes.len();
    while let Ok((_, message)) = wire::read(&mut bytes) {
        assert!(
            message.payload.len() <= length,
            "only what is there is read"
        );
    }
}

/// What somebody says who calls a rank.
pub fn receive(bytes: &[u8]) {
    if let Some((here, _there)) = connection(bytes) {
        assert!(
            reception::converse(&here, WORLD).is_err(),
            "a stranger came in"
        );
    }
    let proof = String::from_utf8_lossy(bytes);
    let conversation = Conversation::new(WORLD, &Greeting::default(), String::new());
    let Ok(conversation) = conversation else {
        return;
    };
    let is_proof = conversation.is_proof(Claim::IsRank, &proof);
    assert!(!is_proof, "somebody guessed it");
    let answered = seal::answer(&conversation, bytes);
    assert!(answered.is_err(), "a stranger has a key");
    if let Ok((handshake, _)) = Handshake::begin(&conversation) {
        assert!(handshake.end(bytes).is_err(), "a stranger has a key");
    }
}

/// What somebody says whom a rank calls.
pub fn call(bytes: &[u8]) {
    let me = Greeting {
        version: VERSION.to_owned(),
        size: 2,
        rank: 1,
        ..Greeting::default()
    };
    let deadline = Instant::now() + LONGEST;
    if let Some((here, _there)) = connection(bytes) {
        let introduced = introduce(&here, WORLD, &me, deadline);
        let is_welcome = matches!(introduced, Ok(crate::attend::Introduced::Welcome(..)));
        assert!(!is_welcome, "a stranger was believed");
    }
    if let Some((here, _there)) = connection(bytes) {
        while frame::read(&here, LONGEST_LIST, deadline).is_ok() {}
    }
    assert!(Instant::now() < deadline, "nobody waits for a stranger");
}
