//! Pushing figures to where Prometheus cannot come to fetch them: a Pushgateway.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::proxy::Route;

/// Longest time that a push may take.
const TIMEOUT: Duration = Duration::from_secs(5);

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
        let proxy = Route::to(base).proxy().unwrap_or_else(|reason| {
            tracing::warn!("{reason}; figures are pushed without a proxy");
            None
        });
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .proxy(proxy)
            .build();
        Self {
            url: format!(
                "{base}/metrics/job/storyloom/{}/{}",
                label("run", run),
                label("instance", id)
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

/// A label of the pushed group as two parts of an address.
///
/// The gateway takes the address apart after undoing its escapes, so that an escaped slash would still
/// divide, and it drops parts that are empty or dots: what is not plain goes as base64.
fn label(name: &str, value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match value {
        // A single sign of padding is how the gateway is told of an empty value.
        "" => format!("{name}@base64/="),
        value if value.bytes().all(is_plain) => format!("{name}/{value}"),
        value => format!("{name}@base64/{}", URL_SAFE.encode(value)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    /// The labels of a group as the gateway reads them from an address.
    fn as_the_gateway_reads(url: &str) -> BTreeMap<String, String> {
        let path = url.split_once("/metrics/").unwrap().1;
        assert!(!path.contains('%'), "escapes are undone before it looks");
        let parts: Vec<&str> = path.split('/').collect();
        assert!(
            parts.iter().all(|part| !matches!(*part, "" | "." | "..")),
            "{path}"
        );
        let labels = parts.chunks(2).map(|label| {
            let [name, value] = label else {
                panic!("an odd number of parts: {path}")
            };
            match name.strip_suffix("@base64") {
                None => ((*name).to_owned(), (*value).to_owned()),
                Some(name) => {
                    let value = URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).unwrap();
                    (name.to_owned(), String::from_utf8(value).unwrap())
                }
            }
        });
        labels.collect()
    }

    #[test]
    fn plain_names_stay_readable() {
        let push = Push::new("http://gateway:9091/", "shoes-1", "w");
        let wanted = "http://gateway:9091/metrics/job/storyloom/run/shoes-1/instance/w";
        assert_eq!(push.url, wanted);
        let push = Push::new("http://gateway:9091", "shoes 1/é", "w");
        let wanted =
            "http://gateway:9091/metrics/job/storyloom/run@base64/c2hvZXMgMS_DqQ==/instance/w";
        assert_eq!(push.url, wanted);
    }

    proptest! {
        #[test]
        fn the_gateway_reads_what_was_meant(run in ".{0,12}|[./%@=]{0,4}", id in ".{0,4}") {
            let labels = as_the_gateway_reads(&Push::new("http://g", &run, &id).url);
            let wanted = [("job", "storyloom"), ("run", &run), ("instance", &id)];
            let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
            prop_assert_eq!(labels, BTreeMap::from(wanted));
        }
    }
}
