//! Pushing figures to where Prometheus cannot come to fetch them: a Pushgateway.

use std::fmt::Write as _;
use std::time::Duration;

/// Longest time that a push may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where one leader pushes its figures to.
#[derive(Debug)]
pub struct Push {
    url: String,
    agent: ureq::Agent,
}

impl Push {
    /// To the gateway at `base` (`http://host:port`), for the leader `id` of the run called `run`.
    pub fn new(base: &str, run: &str, id: &str) -> Self {
        let base = base.trim_end_matches('/');
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .build();
        Self {
            url: format!(
                "{base}/metrics/job/storyloom/run/{}/instance/{}",
                escaped(run),
                escaped(id)
            ),
            agent: agent.into(),
        }
    }

    /// Replaces what this leader pushed before.
    ///
    /// # Errors
    /// The gateway does not answer or does not take it.
    pub fn send(&self, text: &str) -> Result<(), ureq::Error> {
        let request = self.agent.put(&self.url);
        let request = request.header("Content-Type", prometheus::TEXT_FORMAT);
        request.send(text).map(drop)
    }
}

/// A name as one part of an address.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                text.push(char::from(byte));
            }
            // Writing to a text cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_part_of_the_address() {
        assert_eq!(escaped("night 1/é"), "night%201%2F%C3%A9");
        let push = Push::new("http://gateway:9091/", "a/b", "w");
        let wanted = "http://gateway:9091/metrics/job/storyloom/run/a%2Fb/instance/w";
        assert_eq!(push.url, wanted);
    }
}
