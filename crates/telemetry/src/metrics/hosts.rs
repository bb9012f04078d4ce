//! The names under which pages may be asked for.
//!
//! A web page of somebody else, open in a browser on this machine, may give its own name this
//! machine's address and then read what is served here (DNS rebinding). Its requests carry that name.

use std::net::IpAddr;

use axum::http::uri::Authority;

/// What a server that listens at one address may be called.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Where it listens.
    bound: IpAddr,
    /// The name by which others reach this machine.
    name: String,
}

impl Hosts {
    /// Of a server at `bound` on a machine that others call `name`.
    pub(super) fn new(bound: IpAddr, name: &str) -> Self {
        let (bound, name) = (bound.to_canonical(), name.to_owned());
        Self { bound, name }
    }

    /// Whether `host`, with or without a port, stands for this server: `localhost`, other names without
    /// a dot, and addresses of loopback everywhere; where others can come, every address and the
    /// machine's name as well.
    pub(super) fn know(&self, host: &str) -> bool {
        let Some(host) = host.parse::<Authority>().ok() else {
            return false;
        };
        let name = host.host().trim_end_matches('.');
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let is_local = self.bound.is_loopback();
        match bare.parse::<IpAddr>() {
            // An address in the place of a name was looked up by nobody.
            Ok(ip) => !is_local || ip.to_canonical().is_loopback(),
            Err(_) if host.as_str().contains('@') => false,
            Err(_) => {
                // No page of the web has a name without a dot; machines and containers have.
                !name.contains('.') || !is_local && name.eq_ignore_ascii_case(&self.name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(bound: &str, host: &str) -> bool {
        Hosts::new(bound.parse().unwrap(), "node7").know(host)
    }

    #[test]
    fn loopback_is_asked_by_its_own_names() {
        for bound in ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"] {
            for host in [
                "localhost:9464",
                "LOCALHOST",
                "127.0.0.1:9464",
                "127.9.9.9",
                "[::1]:1",
                "node7",
                "a-container:9464",
            ] {
                assert!(known(bound, host), "{bound} {host}");
            }
            for host in [
                "evil.example",
                "evil.example:9464",
                "127.0.0.1.evil.example",
                "localhost.evil.example",
                "localhost@evil.example",
                "evil.example@localhost",
                "10.0.0.7",
                "[::2]",
                "node7.example",
                "",
                "a b",
            ] {
                assert!(!known(bound, host), "{bound} {host}");
            }
        }
    }

    #[test]
    fn others_ask_by_address_or_by_the_name_of_the_machine() {
        for bound in ["0.0.0.0", "::", "10.0.0.7"] {
            for host in [
                "10.0.0.7:9464",
                "[fd00::1]:9464",
                "node7:9464",
                "Node7.",
                "localhost",
            ] {
                assert!(known(bound, host), "{bound} {host}");
            }
            for host in ["evil.example", "node7.evil.example", ""] {
                assert!(!known(bound, host), "{bound} {host}");
            }
        }
    }
}
