//! Gives the metrics of a leader to anyone who wants them: pages, targets, a file, a gateway.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::connections::Limits;
use super::figures::Metrics;
use super::machine::RankReport;
use super::push::Push;
use super::run::RunView;
use super::server::{Pages, Server};
use super::targets::{Target, replace};
use super::token::Token;
use crate::bystander;
use crate::shift::now;

/// How the metrics of a leader are given away.
#[derive(Debug)]
pub struct ExporterSettings {
    /// The run folder.
    pub run: PathBuf,
    /// What the run is called.
    pub name: String,
    /// The worker that the leases know the leader by.
    pub id: String,
    /// Name of the machine.
    pub node: String,
    /// Where to serve; nowhere if `None`.
    pub listen: Option<SocketAddr>,
    /// The name by which others reach this machine, if it serves at all of its addresses.
    pub host: String,
    /// Who may change what the run does; nobody if `None`.
    pub token: Option<Token>,
    /// A Pushgateway.
    pub push: Option<String>,
    /// Time without progress after which the process counts as ill.
    pub stall: Duration,
}

/// What the exporter asks of the run.
pub trait RunWatch: Send + Sync + 'static {
    /// How far the whole run is, and the same as `storyloom status --json` prints it. Reads the run
    /// folder, which may take long.
    ///
    /// # Errors
    /// The run folder cannot be read; what to tell an operator.
    fn look(&self) -> Result<(RunView, String), String>;

    /// What the ranks of the replica say of themselves.
    fn ranks(&self) -> Vec<RankReport>;

    /// Whether no new shots are taken because somebody asked for that.
    fn is_draining(&self) -> bool;

    /// Asks all programs of the run to take no new shots.
    ///
    /// # Errors
    /// What to tell the one who asked.
    fn drain(&self) -> Result<(), String>;
}

/// Gives the metrics of a leader away while it lives.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    target: Option<Target>,
    server: Option<Server>,
    looker: Option<JoinHandle<()>>,
}

struct Shared {
    settings: ExporterSettings,
    metrics: Arc<Metrics>,
    watch: Arc<dyn RunWatch>,
    push: Option<Push>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What `storyloom status --json` prints.
    status: Option<String>,
    over: bool,
    warned: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Exporter {
    /// Begins to serve. What cannot be served is a warning: a run goes on without it.
    pub fn start(
        settings: ExporterSettings,
        metrics: Arc<Metrics>,
        watch: Arc<dyn RunWatch>,
    ) -> Self {
        let push = settings.push.as_deref();
        let push = push.map(|base| Push::new(base, &settings.name, &settings.id));
        let shared = Arc::new(Shared {
            settings,
            metrics,
            watch,
            push,
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let mut exporter = Self {
            shared,
            target: None,
            server: None,
            looker: None,
        };
        if let Err(error) = exporter.serve() {
            tracing::warn!(%error, "figures are not served; the run goes on");
        }
        exporter
    }

    fn serve(&mut self) -> io::Result<()> {
        let settings = &self.shared.settings;
        if let Some(listen) = settings.listen {
            let limits = Limits::of_this_process();
            let server = Server::start(listen, self.shared.clone(), limits)?;
            if server.address().ip().is_unspecified() && settings.token.is_none() {
                tracing::warn!(
                    "figures are served at {}, to all machines that reach this one: open the port \
                     to Prometheus only",
                    server.address()
                );
            }
            let address = reachable(server.address(), &settings.host);
            tracing::info!("figures at http://{address}/metrics");
            self.server = Some(server);
            let (run, id) = (&settings.run, &settings.id);
            let target = Target::add(run, id, &address, &settings.name, &settings.node)?;
            self.target = Some(target);
        }
        if settings.listen.is_some() || settings.push.is_some() {
            let (shared, target) = (self.shared.clone(), self.target.clone());
            let looker = bystander::spawn("metrics", move || shared.keep_looking(target.as_ref()));
            self.looker = Some(looker?);
        }
        Ok(())
    }

    /// Where it serves, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::address)
    }
}

/// The address as others reach it.
fn reachable(address: SocketAddr, host: &str) -> String {
    match address.ip().is_unspecified() {
        true => format!("{host}:{}", address.port()),
        false => address.to_string(),
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.wake.notify_all();
        if let Some(looker) = self.looker.take() {
            // If it panicked it has said so.
            let _ = looker.join();
        }
        if let Some(target) = self.target.take() {
            target.remove();
        }
        self.server.take();
        self.shared.look();
        self.shared.leave();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the run again and again, until the exporter is dropped.
    fn keep_looking(&self, target: Option<&Target>) {
        /// Time between two looks at least.
        const PAUSE: Duration = Duration::from_secs(2);
        /// Looking takes at most this fraction (1 / n) of a core's time. What it waits for others
        /// does not count: one slow answer must not make everybody blind for minutes.
        const SHARE: u32 = 100;
        /// Time between two pushes.
        const PUSH: Duration = Duration::from_secs(30);
        let mut pushed = Instant::now();
        loop {
            let begun = core_time();
            self.look();
            let pause = PAUSE.max(core_time().saturating_sub(begun) * SHARE);
            let tended = target.map_or(Ok(()), Target::tend);
            if let Err(error) = tended {
                self.warn(&format!("metrics/targets.json: {error}"));
            }
            if pushed.elapsed() >= PUSH {
                pushed = Instant::now();
                self.push();
            }
            let state = self.lock();
            let waited = self
                .wake
                .wait_timeout_while(state, pause, |state| !state.over);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.over {
                return;
            }
        }
    }

    /// Looks at the run, the disks and the ranks.
    fn look(&self) {
        // Before the folder has its `run.json` there is nothing to see.
        let begun = !self.metrics.journal().live().load;
        let seen = self.watch.look().and_then(|(view, status)| {
            self.lock().status = Some(status);
            self.metrics
                .see_run(&view)
                .map_err(|error| error.to_string())
        });
        let asked = self
            .metrics
            .see_ranks(&self.watch.ranks())
            .and_then(|()| self.metrics.look_at_disks(&self.settings.run));
        let errors = [
            seen.err().filter(|_| begun),
            asked.err().map(|error| error.to_string()),
        ];
        for error in errors.into_iter().flatten() {
            self.warn(&error);
        }
    }

    /// Pushes the figures if there is a gateway.
    fn push(&self) {
        let Some(push) = &self.push else { return };
        let pushed = self
            .metrics()
            .and_then(|text| push.send(&text).map_err(|error| error.to_string()));
        if let Err(error) = pushed {
            self.warn(&format!("the push gateway: {error}"));
        }
    }

    /// What stays when the leader is gone: a file for node_exporter's textfile collector, and what
    /// the gateway knows.
    fn leave(&self) {
        let folder = self.settings.run.join("metrics");
        let file = folder.join(format!("{}.prom", self.settings.id));
        let written = self.metrics().and_then(|text| {
            fs::create_dir_all(&folder)
                .and_then(|()| replace(&file, text.as_bytes()))
                .map_err(|error| format!("{}: {error}", file.display()))
        });
        if let Err(error) = written {
            self.warn(&error);
        }
        self.push();
    }

    /// Warns of the first error.
    fn warn(&self, error: &str) {
        if !std::mem::replace(&mut self.lock().warned, true) {
            tracing::warn!("figures are not complete, the run goes on: {error}");
        }
    }
}

/// What this thread has had of a core.
fn core_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Pages for Shared {
    fn run(&self) -> &str {
        &self.settings.name
    }

    fn worker(&self) -> &str {
        &self.settings.id
    }

    fn host(&self) -> &str {
        &self.settings.host
    }

    fn metrics(&self) -> Result<String, String> {
        let text = self.metrics.text(self.watch.is_draining());
        text.map_err(|error| error.to_string())
    }

    fn health(&self) -> Result<(), String> {
        let live = self.metrics.journal().live();
        let still = now() - self.metrics.last_progress();
        let works = live.load || !live.now.is_empty();
        if works && still > self.settings.stall.as_secs_f64() {
            return Err(format!("no progress for {still:.0} seconds"));
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.metrics.journal().live().load {
            true => Err("loading".to_owned()),
            false => Ok(()),
        }
    }

    fn status(&self) -> Option<String> {
        self.lock().status.clone()
    }

    fn token(&self) -> Option<&Token> {
        self.settings.token.as_ref()
    }

    fn drain(&self) -> Result<(), String> {
        self.watch.drain()
    }
}
