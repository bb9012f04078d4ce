//! Where the ranks of a world without MPI meet, and how they know each other there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::discovery::{RENDEZVOUS, Source, TOKEN, Variables};
use crate::error::CommError;

/// Where ranks without MPI meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meeting {
    /// Name or address of the machine.
    pub host: String,
    /// Ports that are tried, in this order.
    pub ports: Vec<u16>,
    /// What tells this world from others at the same place; may be empty.
    pub world: String,
    /// Who listens there.
    pub holder: Holder,
}

/// Who listens where ranks meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// `storyloom launch`.
    Launcher,
    /// The first rank.
    RankZero,
}

/// Ports after `MASTER_PORT` that are tried where torchrun's agent holds that one itself.
const MORE_PORTS: u16 = 16;

/// The meeting of a world that `source` started; nothing if the environment does not say.
///
/// # Errors
/// An address or a port that cannot be one.
pub(crate) fn of(source: Source, variable: Variables) -> Result<Option<Meeting>, CommError> {
    if source == Source::Launch {
        let address = variable(RENDEZVOUS).unwrap_or_default();
        return launched(&address, variable).map(Some);
    }
    let (Some(host), Some(port)) = (variable("MASTER_ADDR"), variable("MASTER_PORT")) else {
        return Ok(None);
    };
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(CommError::Setup("MASTER_ADDR is empty".to_owned()));
    }
    let port = port_of("MASTER_PORT", &port)?;
    Ok(Some(Meeting {
        host: host.to_owned(),
        ports: ports(source, port, variable),
        world: world(source, port, variable),
        holder: Holder::RankZero,
    }))
}

fn launched(address: &str, variable: Variables) -> Result<Meeting, CommError> {
    let wrong = || CommError::Setup(format!("{RENDEZVOUS}={address} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    Ok(Meeting {
        host: host.to_owned(),
        ports: vec![port_of(RENDEZVOUS, port)?],
        world: variable(TOKEN).unwrap_or_default(),
        holder: Holder::Launcher,
    })
}

fn port_of(name: &str, text: &str) -> Result<u16, CommError> {
    let port = text.trim().parse().ok().filter(|&port: &u16| port > 0);
    port.ok_or_else(|| CommError::Setup(format!("{name}: {text:?} is not a port")))
}

/// The agent of torchrun serves its own store at `MASTER_PORT` as a rule, and then the ranks meet
/// at the first free port after it. Nobody asks the store: it knows no greeting of ours.
fn ports(source: Source, port: u16, variable: Variables) -> Vec<u16> {
    if source != Source::Torchrun {
        return vec![port];
    }
    let store = variable("TORCHELASTIC_USE_AGENT_STORE");
    let is_free = store.is_some_and(|told| !told.eq_ignore_ascii_case("true") && told != "1");
    let last_but = u16::MAX - MORE_PORTS;
    let after = match port <= last_but {
        true => (port + 1)..=(port + MORE_PORTS),
        false => (port - MORE_PORTS)..=(port - 1),
    };
    is_free.then_some(port).into_iter().chain(after).collect()
}

/// What all ranks of one start have in common and those of another have not.
fn world(source: Source, port: u16, variable: Variables) -> String {
    let of = |name| variable(name).unwrap_or_default();
    let token = of(TOKEN);
    match source {
        _ if !token.is_empty() => token,
        Source::Torchrun => {
            let (run, attempt) = (of("TORCHELASTIC_RUN_ID"), of("TORCHELASTIC_RESTART_COUNT"));
            format!("torchrun {run}, start {attempt}, at {port}")
        }
        Source::Slurm => {
            let (job, step) = (of("SLURM_JOB_ID"), of("SLURM_STEP_ID"));
            format!("Slurm {job}.{step}, start {}", of("SLURM_RESTART_COUNT"))
        }
        _ => String::new(),
    }
}

impl Meeting {
    /// The place in messages.
    pub(crate) fn place(&self) -> String {
        let bracketed = match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match &self.ports[..] {
            [first, .., last] => format!("{bracketed}, ports {first} to {last}"),
            [port] => format!("{bracketed}:{port}"),
            [] => bracketed,
        }
    }

    /// Whether nobody from another machine can come.
    pub(crate) fn is_local(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Addresses at which ranks call the one that holds the meeting.
    ///
    /// # Errors
    /// A name that has no address, at least not yet.
    pub(crate) fn addresses(&self, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let found = (self.host.as_str(), port).to_socket_addrs()?;
        Ok(found.collect())
    }

    /// Addresses at which the first rank listens; the first that can be had is the one.
    ///
    /// A name may stand for another address on its own machine than elsewhere (Debian gives hosts
    /// 127.0.1.1), and an address may belong to a service in front of the machine: then it listens
    /// at all of its addresses.
    pub(crate) fn listening(&self, port: u16) -> Vec<SocketAddr> {
        let at = |ip: IpAddr| SocketAddr::new(ip, port);
        if self.is_local() {
            return self
                .addresses(port)
                .unwrap_or_else(|_| vec![at(Ipv4Addr::LOCALHOST.into())]);
        }
        let everywhere = [
            at(Ipv6Addr::UNSPECIFIED.into()),
            at(Ipv4Addr::UNSPECIFIED.into()),
        ];
        self.ip().map(at).into_iter().chain(everywhere).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(source: Source, pairs: &[(&str, &str)]) -> Result<Option<Meeting>, CommError> {
        of(source, &|name| {
            let mut pairs = pairs.iter();
            let found = pairs.find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn at(source: Source, pairs: &[(&str, &str)]) -> Meeting {
        meeting(source, pairs).unwrap().unwrap()
    }

    #[test]
    fn ranks_meet_at_the_master_or_at_their_launcher() {
        assert_eq!(meeting(Source::Environment, &[]).unwrap(), None);
        let half = [("MASTER_ADDR", "node7")];
        assert_eq!(meeting(Source::Environment, &half).unwrap(), None);
        let master = [("MASTER_ADDR", "node7"), ("MASTER_PORT", "29500")];
        let plain = at(Source::Environment, &master);
        assert_eq!(plain.place(), "node7:29500");
        assert_eq!((plain.holder, plain.world.as_str()), (Holder::RankZero, ""));
        let launched = [
            (RENDEZVOUS, "127.0.0.1:9"),
            (TOKEN, "t"),
            ("MASTER_ADDR", "x"),
        ];
        let launched = at(Source::Launch, &launched);
        assert_eq!(launched.place(), "127.0.0.1:9");
        assert_eq!(
            (launched.holder, launched.world.as_str()),
            (Holder::Launcher, "t")
        );
    }

    #[test]
    fn what_cannot_be_an_address_is_named() {
        for (pairs, wanted) in [
            (
                [("MASTER_ADDR", "n"), ("MASTER_PORT", "http")],
                "MASTER_PORT: \"http\" is not a port",
            ),
            (
                [("MASTER_ADDR", "n"), ("MASTER_PORT", "0")],
                "MASTER_PORT: \"0\" is not a port",
            ),
            (
                [("MASTER_ADDR", " "), ("MASTER_PORT", "1")],
                "MASTER_ADDR is empty",
            ),
        ] {
            let error = meeting(Source::Environment, &pairs).unwrap_err();
            assert_eq!(error.to_string(), wanted);
        }
        assert!(meeting(Source::Launch, &[(RENDEZVOUS, "here")]).is_err());
    }

    #[test]
    fn the_port_of_torchruns_agent_is_left_to_it() {
        let told = |store: &[(&'static str, &'static str)], port: &'static str| {
            let master = [
                ("MASTER_ADDR", "n"),
                ("MASTER_PORT", port),
                ("TORCHELASTIC_RUN_ID", "x"),
                ("TORCHELASTIC_RESTART_COUNT", "2"),
            ];
            at(Source::Torchrun, &[&master[..], store].concat())
        };
        let agent = told(&[("TORCHELASTIC_USE_AGENT_STORE", "True")], "29500");
        assert_eq!(agent.ports, (29501..=29516).collect::<Vec<_>>());
        assert_eq!(agent.world, "torchrun x, start 2, at 29500");
        assert_eq!(told(&[], "29500").ports, agent.ports);
        let free = told(&[("TORCHELASTIC_USE_AGENT_STORE", "False")], "29500");
        assert_eq!(free.ports, (29500..=29516).collect::<Vec<_>>());
        // There is none after the last.
        let last = told(&[], "65535");
        assert_eq!(last.ports, (65519..=65534).collect::<Vec<_>>());
    }

    #[test]
    fn starts_are_told_apart() {
        let slurm = |restarts: &'static str| {
            let pairs = [
                ("MASTER_ADDR", "n"),
                ("MASTER_PORT", "1"),
                ("SLURM_JOB_ID", "7"),
                ("SLURM_STEP_ID", "0"),
                ("SLURM_RESTART_COUNT", restarts),
            ];
            at(Source::Slurm, &pairs).world
        };
        assert_ne!(slurm("0"), slurm("1"));
        let secret = [("MASTER_ADDR", "n"), ("MASTER_PORT", "1"), (TOKEN, "s")];
        assert_eq!(at(Source::Slurm, &secret).world, "s");
    }

    #[test]
    fn names_addresses_and_loopback() {
        let host = |host: &'static str| {
            at(
                Source::Environment,
                &[("MASTER_ADDR", host), ("MASTER_PORT", "80")],
            )
        };
        for local in ["127.0.0.1", "::1", "[::1]", "localhost", "127.0.1.1"] {
            assert!(host(local).is_local(), "{local}");
            let listening = host(local).listening(80);
            assert!(listening.iter().all(|address| address.ip().is_loopback()));
        }
        assert_eq!(host("[::1]").place(), "[::1]:80");
        assert_eq!(
            host("::1").addresses(80).unwrap(),
            ["[::1]:80".parse::<SocketAddr>().unwrap()]
        );
        let listening = |name| -> Vec<String> {
            let addresses = host(name).listening(80).into_iter();
            addresses.map(|address| address.to_string()).collect()
        };
        assert_eq!(listening("node7"), ["[::]:80", "0.0.0.0:80"]);
        assert_eq!(
            listening("10.0.0.7"),
            ["10.0.0.7:80", "[::]:80", "0.0.0.0:80"]
        );
    }
}
