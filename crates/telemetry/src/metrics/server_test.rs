//! What strangers can do to the pages.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;

/// What takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Pages of which one fails.
struct Failing;

impl Pages for Failing {
    fn run(&self) -> &str {
        "shoes"
    }

    fn worker(&self) -> &str {
        "w1"
    }

    fn host(&self) -> &str {
        "node7"
    }

    fn metrics(&self) -> Result<String, String> {
        panic!("this page fails")
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Option<String> {
        None
    }

    fn token(&self) -> Option<&Token> {
        None
    }

    fn drain(&self) -> Result<(), String> {
        Ok(())
    }
}

fn server(limits: Limits) -> Server {
    let address = "127.0.0.1:0".parse().unwrap();
    Server::start(address, Arc::new(Failing), limits).unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// All that comes back for a request with this head, as far as it comes.
fn answer(server: &Server, head: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    // Anyone who is cut off has heard what there was to hear.
    let _ = stream.read_to_string(&mut text);
    text
}

fn health(server: &Server, host: &str) -> String {
    answer(
        server,
        &format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    )
}

const ROOM: Limits = Limits {
    connections: 8,
    head: HOUR,
    whole: HOUR,
};

/// Whether the other end has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn idle_connections_keep_nobody_out() {
    let server = server(ROOM);
    let idle: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(&server);
            // Some are cut off at once.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ");
            stream
        })
        .collect();
    assert!(health(&server, "localhost").starts_with("HTTP/1.1 200"));
    let begun = Instant::now();
    let open = || idle.iter().filter(|stream| !is_closed(stream)).count();
    while open() > ROOM.connections {
        assert!(begun.elapsed() < TIMEOUT, "{} are open", open());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nobody_stays_for_long() {
    const SHORT: Duration = Duration::from_millis(50);
    let head = Limits {
        head: SHORT,
        ..ROOM
    };
    let whole = Limits {
        whole: SHORT,
        ..ROOM
    };
    for limits in [head, whole] {
        let server = server(limits);
        let mut stream = connect(&server);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

#[test]
fn a_page_that_fails_costs_its_connection_alone() {
    let server = server(ROOM);
    for _ in 0..3 {
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(answer(&server, head), "");
        assert!(health(&server, "localhost").starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn foreign_names_get_nothing() {
    let server = server(ROOM);
    let port = server.address().port();
    for host in ["localhost", "127.0.0.1", "[::1]", "node7"] {
        let said = health(&server, &format!("{host}:{port}"));
        assert!(said.starts_with("HTTP/1.1 200"), "{host}: {said}");
    }
    for host in [
        "evil.example",
        "node7.example",
        "localhost\r\nHost: evil.example",
    ] {
        let said = health(&server, host);
        let code = said.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "421"].contains(&code), "{host}: {said}");
    }
    // Only browsers let pages of others ask, and they name who is asked.
    assert!(answer(&server, "GET /healthz HTTP/1.0\r\n\r\n").contains(" 200 "));
    let asked_as_proxy = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(answer(&server, asked_as_proxy).contains(" 421 "));
}
