//! The pages of a leader: `/metrics`, `/healthz`, `/readyz`, `/status` and `POST /drain`.
//!
//! Requests may say whose pages they want: `?run=NAME` or `?worker=ID`, as the list of targets does.
//! Anyone who got the address of another answers those with 404.
//!
//! They are served by one thread with a runtime of its own, which asks values that others keep and
//! never a disk, a network or a GPU. Nothing that comes in by the network ends that thread, takes the
//! files that the run needs, or ends the program.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;

use super::connections::{self, Limits};
use super::hosts::Hosts;
use super::targets::{RUN_PARAMETER, WORKER_PARAMETER};
use super::token::Token;
use crate::bystander;

/// What the pages say.
pub(super) trait Pages: Send + Sync + 'static {
    /// What the run is called.
    fn run(&self) -> &str;
    /// The worker that the leases know the leader by.
    fn worker(&self) -> &str;
    /// The name by which others reach this machine.
    fn host(&self) -> &str;
    /// The figures in the text format of Prometheus.
    fn metrics(&self) -> Result<String, String>;
    /// Whether the process makes progress, and why not.
    fn health(&self) -> Result<(), String>;
    /// Whether everything is loaded, and why not.
    fn ready(&self) -> Result<(), String>;
    /// What `storyloom status --json` prints; `None` if nobody has looked yet.
    fn status(&self) -> Option<String>;
    /// The secret of those who may drain.
    fn token(&self) -> Option<&Token>;
    /// Asks all programs of the run to take no new shots.
    fn drain(&self) -> Result<(), String>;
}

/// The thread that serves.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at `address`, or at one of the ports after it if others of this machine have it: the
    /// leaders of a machine share a config. Port 0 takes any.
    ///
    /// # Errors
    /// No port is free, or the address is none of this machine.
    pub(super) fn start(
        address: SocketAddr,
        pages: Arc<dyn Pages>,
        limits: Limits,
    ) -> io::Result<Self> {
        let listener = bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let routes = routes(pages, address);
        let (stop, stopped) = watch::channel(false);
        let thread = bystander::spawn("metrics-http", move || {
            let mut stopped = stopped.clone();
            runtime.block_on(async {
                tokio::select! {
                    () = connections::serve(&listener, &routes, limits) => {}
                    // Connections that are open then are dropped: nobody waits for them.
                    _ = stopped.wait_for(|&over| over) => {}
                }
            });
        })?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it serves.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    /// More leaders than anybody has on one machine.
    const PORTS: u16 = 64;
    let mut port = address.port();
    let last = port.saturating_add(PORTS - 1);
    loop {
        let result = TcpListener::bind(SocketAddr::new(address.ip(), port));
        match result {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port < last => port += 1,
            result => return result,
        }
    }
}

type Shared = State<Arc<dyn Pages>>;

fn routes(pages: Arc<dyn Pages>, address: SocketAddr) -> Router {
    let hosts = Arc::new(Hosts::new(address.ip(), pages.host()));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/drain", post(drain))
        .layer(from_fn_with_state(pages.clone(), only_if_meant))
        .layer(from_fn_with_state(hosts, only_by_own_names))
        .with_state(pages)
}

/// Lets requests through that call this server by a name of its own.
async fn only_by_own_names(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().get_all(HOST).into_iter();
    let headers = headers.map(|host| host.to_str().unwrap_or_default());
    let address = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if headers.chain(address).all(|host| hosts.know(host)) {
        return next.run(request).await;
    }
    let why = "nobody is called so here: ask by address, or by the name that metrics.host gives \
               where metrics.listen is open to others\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Lets requests through that are for this leader, or for nobody in particular.
async fn only_if_meant(State(pages): Shared, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    for (name, wanted) in form_urlencoded::parse(query.as_bytes()) {
        let own = match &*name {
            RUN_PARAMETER => pages.run(),
            WORKER_PARAMETER => pages.worker(),
            _ => continue,
        };
        if wanted != own {
            let why = format!("this is not the {name} {wanted:?} but {own:?}\n");
            return (StatusCode::NOT_FOUND, why).into_response();
        }
    }
    next.run(request).await
}

async fn metrics(State(pages): Shared) -> Response {
    match pages.metrics() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

async fn health(State(pages): Shared) -> Response {
    state(pages.health())
}

async fn ready(State(pages): Shared) -> Response {
    state(pages.ready())
}

fn state(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn status(State(pages): Shared) -> Response {
    match pages.status() {
        Some(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        None => state(Err("the run has not begun yet".to_owned())),
    }
}

async fn drain(State(pages): Shared, headers: HeaderMap) -> Response {
    let refuse = |code, why: &str| (code, format!("{why}\n")).into_response();
    let Some(token) = pages.token() else {
        let why = "this program takes no orders: start it with metrics.token_file";
        return refuse(StatusCode::FORBIDDEN, why);
    };
    let authorization = headers.get(AUTHORIZATION);
    if !authorization.is_some_and(|given| token.is_in(given.as_bytes())) {
        let why = "give the token: Authorization: Bearer …";
        return refuse(StatusCode::UNAUTHORIZED, why);
    }
    match pages.drain() {
        Ok(()) => (StatusCode::ACCEPTED, "draining\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod tests;
