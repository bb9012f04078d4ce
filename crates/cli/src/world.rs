//! The world of ranks that this program was started in, and how it ends as one.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use storyloom_engine::replica::Replica;
use storyloom_models::tiny::folders;
use storyloom_models::wan::WanConfig;
use storyloom_nn::ModelError;
use storyloom_nn::checkpoint::component_folder;
use storyloom_nn::shard::Peers;
use storyloom_orchestrator::{StopAt, StopFlag};
use storyloom_parallel::topology::{Degrees, Layout, Plan, Role, Seat};
use storyloom_parallel::{CommError, Group, World};
use storyloom_story::{Method, guard};
use storyloom_telemetry::bystander;

use crate::config::options::EngineKind;
use crate::config::resolved::WorldConfig;
use crate::exit::{Exit, Failure};
use crate::logging;

/// A rank with its slot in the world.
pub struct RankSlot {
    /// All ranks.
    pub world: World,
    /// What they are called together, different for every start.
    pub name: String,
    layout: Layout,
    /// How long ranks wait for each other.
    collective_timeout: Duration,
}

/// Time that the first rank has to say what all would say: launchers end the others, and throw
/// away what these still say, as soon as one has ended.
const FIRST_SPEAKS: Duration = Duration::from_secs(1);

/// How this rank ends when its world does not come together, or falls apart.
pub fn setup(error: CommError) -> Failure {
    if matches!(&error, CommError::Apart { rank, .. } if *rank > 0) {
        std::thread::sleep(FIRST_SPEAKS);
        return Failure::told(Exit::Config);
    }
    let exit = if error.is_resumable() {
        Exit::Stopped
    } else {
        Exit::Config
    };
    Failure::new(exit, error)
}

/// Joins the world and divides it as the config says. Nothing is loaded yet.
///
/// # Errors
/// The world does not come together, or the topology does not fit it or the model.
pub fn join(config: &WorldConfig) -> Result<RankSlot, Failure> {
    let collective_timeout = config.options.collective_timeout;
    let world = World::join(config.options).map_err(setup)?;
    let found = world.found();
    let (rank, size) = (found.rank, found.size);
    if size > 1 {
        logging::set_rank(rank);
        end_together_on_panic();
        tracing::info!(
            "rank {rank} of {size}, {} of {} on this machine, by {}",
            found.local_rank,
            found.local_size,
            found.source.name()
        );
    }
    let wrong = |error: &dyn std::fmt::Display| {
        // Every rank finds the same; one of them says it.
        match rank {
            0 => Failure::new(Exit::Config, error),
            _ => Failure::told(Exit::Config),
        }
    };
    let layout = config.plan.lay_out(size).map_err(|error| wrong(&error))?;
    if config.engine == EngineKind::Simulated && layout.plan.ranks() > 1 {
        let message = "engine = \"simulated\" has replicas of one rank: leave topology.tensor, \
                       sequence, cfg, encoders and decoders as they are";
        return Err(wrong(&message));
    }
    if config.engine == EngineKind::Torch && layout.plan.degrees != Degrees::ONE {
        check_models(config.method, &config.models_dir, layout.plan.degrees)
            .map_err(|error| wrong(&error.message))?;
    }
    if rank == 0 && size > 1 {
        tracing::info!(
            "{} replicas of {} ranks: {}",
            layout.replicas,
            layout.plan.ranks(),
            describe(layout.plan)
        );
        if layout.plan.planners > 0 {
            tracing::info!(
                "{} more ranks that plan stories, {} with each model",
                layout.plan.planners,
                layout.plan.planner_tensor
            );
        }
    }
    Ok(RankSlot {
        name: name(&world)?,
        world,
        layout,
        collective_timeout,
    })
}

/// A name for the world that no other has: when it began, and the process of its first rank.
fn name(world: &World) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.unwrap_or_default().as_millis();
    let mut name = [
        i64::try_from(millis).unwrap_or_default(),
        i64::from(std::process::id()),
    ];
    world.group().broadcast(&mut name, 0).map_err(setup)?;
    Ok(format!("{}-{}", name[0], name[1]))
}

fn describe(plan: Plan) -> String {
    let Degrees {
        tensor,
        sequence,
        cfg,
    } = plan.degrees;
    format!(
        "tensor {tensor}, sequence {sequence}, cfg {cfg}, {} encoders, {} decoders",
        plan.encoders, plan.decoders
    )
}

/// Reads the shapes of the transformers and nothing more. What is missing is told where it is loaded; so is a
/// shape that does not fit where the lines of the manifest name another method.
fn check_models(method: Method, models: &Path, degrees: Degrees) -> Result<(), Failure> {
    let pipelines: &[&str] = match method {
        Method::OneStory => &[folders::ONESTORY],
        _ => &[folders::TEXT_TO_VIDEO, folders::IMAGE_TO_VIDEO],
    };
    for pipeline in pipelines {
        let folder = component_folder(&models.join(pipeline), "transformer");
        if !folder.is_dir() {
            continue;
        }
        let shape = WanConfig::read(&folder)
            .map_err(|error: ModelError| Failure::new(Exit::Config, error))?;
        let (heads, ffn) = (shape.num_attention_heads as usize, shape.ffn_dim as usize);
        degrees
            .check_model(&folder.display().to_string(), heads, ffn)
            .map_err(|error| Failure::new(Exit::Config, error))?;
    }
    Ok(())
}

impl RankSlot {
    /// This rank's replica. All ranks of the world call it.
    ///
    /// # Errors
    /// A rank is missing.
    pub fn replica(&self) -> Result<Replica, Failure> {
        Ok(Replica::join(self.world.group(), self.layout)?)
    }

    /// Where this rank sits.
    pub fn seat(&self) -> Seat {
        self.layout.seat(self.world.found().rank)
    }

    /// Whether this rank leads a replica.
    pub fn leads(&self) -> bool {
        self.seat().index == 0 && !self.plans_only()
    }

    /// Whether this rank plans stories and makes no shots.
    pub fn plans_only(&self) -> bool {
        self.seat().role == Role::Plan
    }

    /// Whether this rank has a part of the language model of another rank that plans.
    pub fn helps_to_plan(&self) -> bool {
        self.plans_only() && self.seat().index > 0
    }

    /// The ranks that share a language model with this one; nobody, but for ranks that plan. All of
    /// them call it.
    ///
    /// # Errors
    /// A rank is missing.
    pub fn planning_peers(&self) -> Result<Peers, Failure> {
        if !self.plans_only() {
            return Ok(Peers::default());
        }
        let members = self.layout.members(self.seat().replica);
        let group = self.world.group().subgroup(&members, "planners");
        Ok(Peers::new(group.map_err(setup)?))
    }

    /// Whether some ranks plan for the others.
    pub fn has_planners(&self) -> bool {
        self.layout.plan.planners > 0
    }

    /// Ranks of each replica, or those that share a language model.
    pub fn ranks_of_replica(&self) -> usize {
        match self.plans_only() {
            true => self.layout.plan.planner_tensor,
            false => self.layout.plan.ranks(),
        }
    }

    /// Replicas of the world.
    pub fn replicas(&self) -> usize {
        self.layout.replicas
    }

    /// Whether this is a world of more than one rank.
    pub fn is_shared(&self) -> bool {
        self.world.found().size > 1
    }

    /// Whether this rank speaks for the world.
    pub fn is_first(&self) -> bool {
        self.world.found().rank == 0
    }

    /// What rank 0 says of a question that the ranks might answer differently. All ranks of the
    /// world call it.
    ///
    /// # Errors
    /// A rank is missing.
    pub fn as_first_says(&self, mine: bool) -> Result<bool, Failure> {
        let mut answer = [i64::from(mine)];
        if self.is_shared() {
            self.world
                .group()
                .broadcast(&mut answer, 0)
                .map_err(setup)?;
        }
        Ok(answer != [0])
    }

    /// Gives the other ranks of a replica what its leader says in `mine`; the ranks of the world
    /// call it together. Only what a leader gives counts.
    ///
    /// # Errors
    /// A rank is missing, or this program was asked to stop.
    pub fn as_leader_says(&self, mine: &str, stop: &StopFlag) -> Result<String, Failure> {
        let (seat, group) = (self.seat(), self.world.group());
        let members = self.layout.members(seat.replica);
        if seat.index > 0 {
            let said = Ending::of(self, stop).hear(members[0])?;
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
        for &member in &members[1..] {
            group.send(member, mine.as_bytes()).map_err(setup)?;
        }
        Ok(mine.to_owned())
    }

    /// Threads for the arithmetic of this rank: `asked`, or its share of the cores.
    pub fn threads(&self, asked: u32) -> Option<i32> {
        let found = self.world.found();
        match i32::try_from(asked) {
            Ok(threads) if threads > 0 => Some(threads),
            _ if found.local_size > 1 => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                i32::try_from((cores / found.local_size).max(1)).ok()
            }
            _ => None,
        }
    }

    /// The code of a rank that has lost its world: that of the rank that left, if it was worse.
    pub fn as_others_end(&self, exit: Exit) -> Exit {
        let told = self.world.told().and_then(|code| u8::try_from(code).ok());
        exit.worse_of(told.and_then(Exit::of_code).unwrap_or(exit))
    }

    /// Ends as all ranks do: waits for them, and returns the most severe of their codes. Launchers end
    /// the whole world at the first code that is not 0, so all must be the same.
    ///
    /// Ranks are waited for as long as they live. Once this program was asked to stop, it has
    /// `topology.collective_timeout` for that, and a rank of which nothing is heard a few seconds.
    ///
    /// # Errors
    /// A rank died meanwhile, or does not end; the code is the most severe of those that are known.
    pub fn agree(&self, exit: Exit, stop: &StopFlag) -> Result<Exit, Failure> {
        let group = self.world.group();
        let (rank, size) = (group.rank(), group.size());
        let ending = Ending::of(self, stop);
        let code = |message: Vec<u8>| message.first().copied().and_then(Exit::of_code);
        let at_least = |failure: Failure| Failure {
            exit: failure.exit.worse_of(exit),
            ..failure
        };
        if rank > 0 {
            let said = group.send(0, &[exit as u8]).map_err(setup);
            let heard = said.and_then(|()| ending.hear(0)).map_err(at_least)?;
            return Ok(code(heard).unwrap_or(exit));
        }
        let mut worst = exit;
        let mut missing = Vec::new();
        for other in 1..size {
            match ending.hear(other) {
                Ok(theirs) => worst = worst.worse_of(code(theirs).unwrap_or(Exit::Unexpected)),
                Err(failure) => {
                    worst = worst.worse_of(failure.exit);
                    missing.push(failure.message);
                }
            }
        }
        for other in 1..size {
            // Those who are gone have been counted.
            let _ = group.send(other, &[worst as u8]);
        }
        match missing.is_empty() {
            true => Ok(worst),
            false => Err(Failure::new(worst, missing.join("; "))),
        }
    }
}

/// Waiting for ranks that may not come any more.
struct Ending<'a> {
    group: &'a Group,
    stop: &'a StopFlag,
    collective_timeout: Duration,
    /// When this program was first seen to be asked to stop.
    asked: Cell<Option<Instant>>,
}

impl<'a> Ending<'a> {
    fn of(slot: &'a RankSlot, stop: &'a StopFlag) -> Self {
        Self {
            group: slot.world.group(),
            stop,
            collective_timeout: slot.collective_timeout,
            asked: Cell::new(None),
        }
    }

    /// Whether a rank that lives has had its time since this program was asked to stop.
    fn is_over(&self) -> bool {
        if self.stop.asked() != Some(StopAt::Step) {
            return false;
        }
        let asked = self.asked.get().unwrap_or_else(Instant::now);
        self.asked.set(Some(asked));
        asked.elapsed() > self.collective_timeout
    }

    /// The next message of a rank.
    fn hear(&self, from: usize) -> Result<Vec<u8>, Failure> {
        let heard = self.group.receive_unless(from, &|| self.is_over());
        heard.map_err(setup)?.ok_or_else(|| {
            let seconds = self.collective_timeout.as_secs();
            let message = format!(
                "rank {from} has not stopped within {seconds} s (topology.collective_timeout); run the same \
                 command again"
            );
            Failure::new(Exit::Stopped, message)
        })
    }
}

/// A rank that panics takes its world with it, since the others would wait for it. Threads that only
/// only observe may fail.
fn end_together_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        if !guard::is_guarded() && !bystander::looks_on() {
            World::abort(Exit::Unexpected as i32);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::resolved::Resolved;

    /// A layout that the ranks do not fit is refused before anything is loaded, with what was asked for.
    #[test]
    fn a_layout_that_does_not_fit_is_refused_by_its_options() {
        for (sets, wanted) in [
            (&["topology.tensor=2"][..], "tensor 2 x sequence 1 x cfg 1"),
            (
                &["topology.cfg=2", "topology.encoders=1"],
                "cfg 2 + 1 encoders",
            ),
            (&["topology.replicas=3"], "topology.replicas"),
            (
                &[
                    "planner.backend=native",
                    "topology.planners=3",
                    "topology.planner_tensor=2",
                ],
                "topology.planner_tensor = 2",
            ),
        ] {
            let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
            let config = Resolved::new(load(None, [], &sets).unwrap());
            let failure = join(&config.world).err().unwrap();
            assert_eq!(failure.exit, Exit::Config, "{sets:?}");
            let said = failure.message;
            assert!(said.contains(wanted), "{sets:?}: {said}");
        }
    }
}
