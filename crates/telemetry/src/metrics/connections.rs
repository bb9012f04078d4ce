//! Connections to the pages: few at a time and none for long, so that anyone who opens many of them, or
//! sends a letter now and then, takes nothing from the run.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time: the oldest is closed for the next one. An answer takes milliseconds,
    /// so that the oldest is one that asks nothing.
    pub(super) connections: usize,
    /// Time to send the head of a request.
    pub(super) head: Duration,
    /// Time of a connection, from its beginning to the last byte of its answer.
    pub(super) whole: Duration,
}

/// Connections at a time where there are files enough: more than scrape a leader.
const CONNECTIONS: u64 = 64;
/// The fraction (1 / n) of the files that this process may open.
const SHARE: u64 = 16;
/// Longest head of a request in bytes.
const LONGEST_HEAD: usize = 32 << 10;
/// Time after which a connection is taken again where the system had nothing left for one.
const PAUSE: Duration = Duration::from_millis(200);

impl Limits {
    /// Those of this process. Most of the files that it may open are kept for the run.
    pub(super) fn of_this_process() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            connections: (files / SHARE).clamp(2, CONNECTIONS) as usize,
            head: Duration::from_secs(10),
            whole: Duration::from_secs(30),
        }
    }
}

/// Answers one request on each connection, for ever. What the system refuses is waited out.
pub(super) async fn serve(listener: &TcpListener, routes: &Router, limits: Limits) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    let mut has_told = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_of_the_caller(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut has_told, true) {
                    tracing::warn!(%error, "figures are not served for a while; the run goes on");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= limits.connections {
            if let Some(oldest) = open.pop_front() {
                oldest.abort();
            }
        }
        open.push_back(tokio::spawn(answer(stream, routes.clone(), limits)).abort_handle());
        // Connections that were ended are closed now, however fast new ones come.
        yield_now().await;
    }
}

async fn answer(stream: TcpStream, routes: Router, limits: Limits) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Anyone who leaves in the middle, or takes too long, knows it himself.
    let _ = timeout(limits.whole, connection).await;
}

/// Whether it is the one connection that failed.
fn is_of_the_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let kind = error.kind();
    matches!(
        kind,
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
