//! Whether a request goes through a proxy: by the variables of the environment that other programs
//! heed as well, with the rule that this machine is never asked through another one.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct,
    /// Through a proxy.
    Through(Through),
}

/// A proxy, and who asked for it. It is shown without the name and password that it may hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Through {
    variable: &'static str,
    address: String,
}

/// What a request is for.
struct Target {
    host: String,
    address: Option<IpAddr>,
    port: u16,
}

impl Route {
    /// The way to the server of `url`, as the environment of this program has it.
    pub fn to(url: &str) -> Self {
        Self::by(url, |name| std::env::var(name).ok())
    }

    /// The way to the server of `url`, by what `variable` says of the environment.
    pub fn by(url: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let Some((secure, target)) = target(url) else {
            return Self::Direct;
        };
        if target.is_this_machine() {
            return Self::Direct;
        }
        let set = |name: &'static str| variable(name).filter(|value| !value.trim().is_empty());
        let exceptions = set("no_proxy").or_else(|| set("NO_PROXY"));
        let mut exceptions = exceptions.iter().flat_map(|list| entries(list));
        if exceptions.any(|entry| target.is_meant_by(entry)) {
            return Self::Direct;
        }
        let names = match secure {
            true => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            false => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
        };
        let found = names
            .into_iter()
            .find_map(|name| Some((name, set(name)?.trim().to_owned())));
        match found {
            Some((variable, address)) => Self::Through(Through { variable, address }),
            None => Self::Direct,
        }
    }

    /// The proxy for a client.
    ///
    /// # Errors
    /// The variable has no address of a proxy that can be used; with what to do.
    pub fn proxy(&self) -> Result<Option<ureq::Proxy>, String> {
        let Self::Through(through) = self else {
            return Ok(None);
        };
        let Through { variable, address } = through;
        const HELP: &str =
            "give an address as in http://proxy:3128, or name the server in NO_PROXY";
        if address.to_lowercase().starts_with("socks") {
            return Err(format!(
                "{variable} names a SOCKS proxy, which is not supported; {HELP}"
            ));
        }
        let proxy = ureq::Proxy::new(address);
        proxy
            .map(Some)
            .map_err(|_| format!("{variable} is no address of a proxy; {HELP}"))
    }
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, address } = self;
        let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        write!(f, "the proxy {scheme}://{host} (from {variable})")
    }
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether the server is asked under TLS, and which one it is.
fn target(url: &str) -> Option<(bool, Target)> {
    let uri: Uri = url.parse().ok()?;
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let host = host.trim_end_matches('.').to_lowercase();
    let target = Target {
        address: host.parse().ok(),
        host,
        port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
    };
    Some((secure, target))
}

/// The entries of a list; commas and white space separate them.
fn entries(list: &str) -> impl Iterator<Item = &str> {
    let parts = list.split(|c: char| c == ',' || c.is_whitespace());
    parts.filter(|entry| !entry.is_empty())
}

impl Target {
    fn is_this_machine(&self) -> bool {
        let named = self.host == "localhost" || self.host.ends_with(".localhost");
        named
            || self.address.is_some_and(|address| {
                let address = address.to_canonical();
                address.is_loopback() || address.is_unspecified()
            })
    }

    /// Whether an entry of `NO_PROXY` means this server: everything, a network, an address or a
    /// name, which stands for what is below it, too. A port may follow.
    fn is_meant_by(&self, entry: &str) -> bool {
        if let Some((network, bits)) = entry.split_once('/') {
            return self.is_in(network, bits);
        }
        let (name, port) = with_port(entry);
        if port.is_some_and(|port| port != self.port) {
            return false;
        }
        match name.parse::<IpAddr>() {
            Ok(meant) => self
                .address
                .is_some_and(|address| address.to_canonical() == meant.to_canonical()),
            Err(_) => self.is_named(&name.to_lowercase()),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        if let Some(start) = name.strip_suffix('*') {
            return self.host.starts_with(start);
        }
        let name = name.trim_start_matches('*').trim_matches('.');
        let below = || {
            let rest = self.host.strip_suffix(name);
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        !name.is_empty() && (self.host == name || below())
    }

    fn is_in(&self, network: &str, bits: &str) -> bool {
        let parsed = (network.parse::<IpAddr>(), bits.parse::<u32>(), self.address);
        let (Ok(network), Ok(bits), Some(address)) = parsed else {
            return false;
        };
        match (network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A name or an address, and the port behind it.
fn with_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((inside, after)) = entry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return (
            inside,
            after.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The variable whose proxy is used, if one is.
    fn used(url: &str, environment: &[(&str, &str)]) -> Option<&'static str> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        match Route::by(url, variable) {
            Route::Direct => None,
            Route::Through(through) => Some(through.variable),
        }
    }

    #[test]
    fn this_machine_is_asked_directly() {
        let all = [
            ("http_proxy", "http://p:1"),
            ("ALL_PROXY", "http://p:1"),
            ("https_proxy", "p:1"),
        ];
        for host in [
            "127.0.0.1:8000",
            "127.3.0.9",
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
            "[::1]:8000",
            "[::ffff:127.0.0.1]",
            "0.0.0.0:80",
            "localhost.",
        ] {
            assert_eq!(used(&format!("http://{host}/v1"), &all), None, "{host}");
            assert_eq!(used(&format!("https://{host}/v1"), &all), None, "{host}");
        }
        assert_eq!(
            used("http://localhost.example/v1", &all),
            Some("http_proxy")
        );
        assert_eq!(used("http://128.0.0.1/v1", &all), Some("http_proxy"));
    }

    #[test]
    fn a_scheme_has_its_own_proxy_before_that_of_all() {
        let all = [
            ("HTTP_PROXY", "a:1"),
            ("https_proxy", "b:1"),
            ("ALL_PROXY", "c:1"),
        ];
        assert_eq!(used("http://host/v1", &all), Some("HTTP_PROXY"));
        assert_eq!(used("https://host/v1", &all), Some("https_proxy"));
        assert_eq!(used("https://host/v1", &all[..1]), None);
        assert_eq!(used("https://host/v1", &all[2..]), Some("ALL_PROXY"));
        assert_eq!(
            used(
                "http://host/v1",
                &[("http_proxy", " "), ("ALL_PROXY", "c:1")]
            ),
            Some("ALL_PROXY")
        );
        assert_eq!(used("http://host/v1", &[]), None);
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        for (list, url, direct) in [
            ("*", "http://any.where/v1", true),
            ("llm", "http://llm:8000/v1", true),
            ("farm", "http://llm.farm/v1", true),
            (".farm", "http://llm.farm/v1", true),
            ("*.farm", "http://LLM.Farm./v1", true),
            (".farm", "http://llmfarm/v1", false),
            ("farm", "http://llmfarm/v1", false),
            ("a, b\tllm", "http://llm/v1", true),
            ("llm:8000", "http://llm:8000/v1", true),
            ("llm:8000", "http://llm:8001/v1", false),
            ("llm:443", "https://llm/v1", true),
            ("10.0.0.0/8", "http://10.3.0.9:8000/v1", true),
            ("10.0.0.0/8", "http://11.3.0.9:8000/v1", false),
            ("10.3.0.9/32", "http://10.3.0.9/v1", true),
            ("0.0.0.0/0", "http://11.3.0.9/v1", true),
            ("10.*", "http://10.3.0.9/v1", true),
            ("10.3.0.9", "http://10.3.0.9:8000/v1", true),
            ("fd00::/8", "http://[fd12::1]:8000/v1", true),
            ("fd00::/8", "http://[fe80::1]/v1", false),
            ("fd12::1", "http://[fd12::1]:8000/v1", true),
            ("[fd12::1]:8000", "http://[fd12::1]:8000/v1", true),
            ("[fd12::1]:8000", "http://[fd12::1]:1/v1", false),
            ("10.0.0.0/99", "http://10.0.0.1/v1", false),
            ("10.0.0.0/8", "http://ten.farm/v1", false),
            (", ,", "http://llm/v1", false),
        ] {
            let found = used(
                url,
                &[
                    ("http_proxy", "p:1"),
                    ("https_proxy", "p:1"),
                    ("no_proxy", list),
                ],
            );
            assert_eq!(found.is_none(), direct, "{list} and {url}");
        }
    }

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        let route = Route::by("http://llm/v1", |name| {
            (name == "HTTP_PROXY").then(|| "http://me:secret@proxy:3128".to_owned())
        });
        let Route::Through(through) = &route else {
            panic!("it goes straight")
        };
        assert_eq!(
            through.to_string(),
            "the proxy http://proxy:3128 (from HTTP_PROXY)"
        );
        assert!(!format!("{route:?}").contains("secret"));
        assert_eq!(route.proxy().unwrap().unwrap().host(), "proxy");
        let socks = Route::by("http://llm/v1", |_| Some("socks5://p:1".to_owned()));
        // The same text stands in NO_PROXY and names nobody.
        assert!(socks.proxy().unwrap_err().contains("SOCKS"));
    }

    proptest! {
        #[test]
        fn no_list_is_too_odd(list in ".{0,40}", host in "[a-z0-9.:\\[\\]-]{0,20}") {
            let _ = used(&format!("http://{host}/v1"), &[("http_proxy", "p"), ("NO_PROXY", &list)]);
        }

        #[test]
        fn an_address_is_in_every_network_around_it(bytes in any::<[u8; 4]>(), bits in 0_u32..=32) {
            let address = std::net::Ipv4Addr::from(bytes);
            let list = format!("{address}/{bits}");
            prop_assert_eq!(used(&format!("http://{address}/v1"), &[("http_proxy", "p"), ("NO_PROXY", &list)]), None);
        }
    }
}
