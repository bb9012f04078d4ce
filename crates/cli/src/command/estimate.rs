//! `storyloom estimate`: what a run will take, without running it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use storyloom_memory::select::SelectionRule;
use storyloom_memory::window::WindowSettings;
use storyloom_orchestrator::cost::{CostTable, ReplicaShape, Sharing};
use storyloom_orchestrator::estimate::{
    DiskEstimate, Estimate, Planner, Progress, ShotSettings, Workload, progress_in,
};
use storyloom_orchestrator::forecast::Planners;
use storyloom_parallel::topology::{Degrees, Plan};
use storyloom_story::Method;

use super::{ConfigArguments, config, folder};
use crate::config::Resolved;
use crate::config::options::{Device, StoryMem};
use crate::costs::{self, Costs, Subject};
use crate::cropped::cropped_films;
use crate::diagnose;
use crate::exit::{Exit, Failure, Outcome};
use crate::input::{self, Input};
use crate::lengths::check_lengths;
use crate::methods;
use crate::output::{print, print_json};
use crate::room::size;
use crate::seen_history::check_onestory;

/// Arguments of `estimate`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Manifest or briefs (JSONL, CSV or TSV), story script (.json), or folder of scripts.
    #[arg(long, value_name = "M")]
    manifest: PathBuf,
    /// GPUs there are; without it the number that the topology of the config needs.
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// Time there is, as in 8h, 90m, 1d12h or 300s: the layout that needs the fewest GPU-hours.
    #[arg(long, value_name = "T", value_parser = duration)]
    deadline: Option<f64>,
    /// Count only what is missing in this run folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take times, sizes and memory from the records of this run folder.
    #[arg(long, value_name = "DIR")]
    measured: Option<PathBuf>,
    /// Use only the first N stories of the manifest.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print everything as JSON, the cost table included.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Stories with something to make.
    stories: usize,
    /// Stories that have to be planned first, among those.
    to_plan: usize,
    /// Shots to make.
    shots: usize,
    /// Shots that exist, or that a run leaves alone.
    shots_left_out: usize,
    /// The layout of the config.
    #[serde(flatten)]
    estimate: Estimate,
    /// GPUs that this layout cannot use.
    idle_gpus: usize,
    disk: DiskEstimate,
    /// The layout that is done first.
    soonest: Option<Estimate>,
    deadline: Option<Deadline>,
    /// What is assumed or left out.
    notes: Vec<String>,
    costs: &'a CostTable,
    #[serde(skip)]
    subject: Subject,
    /// Whether the CPU is to do the work: there is no GPU memory then.
    #[serde(skip)]
    on_cpu: bool,
}

#[derive(Debug, Serialize)]
struct Deadline {
    seconds: f64,
    /// Whether the layout of the config is done by then.
    met: bool,
    /// The layout that is done by then with the fewest GPU-hours.
    cheapest: Option<Estimate>,
}

/// What is assumed of stories that are not planned.
const BRIEFS_NOTE: &str = "stories that are not planned are taken to have as many shots as their \
                           briefs ask for, each with a cut";

/// What is assumed of methods that have no count of their own.
const METHODS_NOTE: &str = "shots of narrative-weaver and moviedreamer are counted as storymem would make them: one \
                            sampling loop, and keyframes of each";

/// What is left out of OneStory.
const ONESTORY_NOTE: &str = "shots of onestory are counted without the choice of what they see, which is made once for \
                             each shot, and with the whole budget from the second shot on";

/// Computes and prints.
pub fn run(arguments: &Arguments) -> Outcome {
    let config = config::load(&arguments.config)?;
    let mut input = match input::read(
        &arguments.manifest,
        &config.inputs,
        config.engine.kind.methods(),
    )? {
        Ok(input) => input,
        Err(report) => {
            diagnose::show(&report);
            return Ok(Exit::Input);
        }
    };
    diagnose::warn(&input.warnings);
    if let Some(limit) = arguments.limit {
        input.limit(limit);
    }
    let mut config = methods::for_input(&config, &input)?;
    check_lengths(&config.films.video, &input)?;
    check_onestory(&config, &input)?;
    let methods = methods_of(&input, config.engine.method);
    if methods.iter().eq([&Method::OneStory]) {
        config.costs.method = Method::OneStory;
    }
    let costs = match &arguments.measured {
        Some(path) => costs::measured(&config.costs, &folder::open(path))?,
        None => costs::table(&config.costs)?,
    };
    let settings = shot_settings(&config)?;
    let made = arguments.out.as_deref().map(folder::open);
    let workload = Workload::new(&input.lines, &settings, &costs.table, &|line| match &made {
        Some(folder) => progress_in(folder, line),
        None => Ok(Progress::Made(0)),
    })
    .map_err(folder::failure)?;
    let planner = Planner {
        workload: &workload,
        table: &costs.table,
        interleave: config.interleave,
        planning: Planners {
            ranks: config.world.plan.planners,
            together: config.world.plan.planner_tensor,
            ahead: config.planner.options.ahead as usize,
        },
    };
    let mut report = report(arguments, &config, &planner, &costs)?;
    if input.has_briefs() {
        report.notes.push(BRIEFS_NOTE.to_owned());
    }
    let counted = [Method::StoryMem, Method::OneStory];
    if methods.iter().any(|method| !counted.contains(method)) {
        report.notes.push(METHODS_NOTE.to_owned());
    }
    if methods.contains(&Method::OneStory) {
        report.notes.push(ONESTORY_NOTE.to_owned());
    }
    let cropped = cropped_films(&config.films, &input);
    let cropped = cropped.iter().map(ToString::to_string);
    report.notes.extend(cropped);
    if arguments.json {
        print_json(&report)?;
    } else {
        print(&text(&report))?;
    }
    Ok(report.exit())
}

/// The methods of all lines; `own` is that of lines which do not say theirs.
fn methods_of(input: &Input, own: Method) -> BTreeSet<Method> {
    let methods = input.lines.iter().map(|line| line.method().unwrap_or(own));
    methods.collect()
}

impl Report<'_> {
    /// Whether the run that was asked about can be made on what there is: a script that goes on to
    /// start it must not read the text to find out.
    fn exit(&self) -> Exit {
        let in_time = self
            .deadline
            .as_ref()
            .is_none_or(|deadline| deadline.cheapest.is_some());
        match self.estimate.fits && self.soonest.is_some() && in_time {
            true => Exit::Done,
            false => Exit::Config,
        }
    }
}

fn report<'a>(
    arguments: &Arguments,
    config: &Resolved,
    planner: &Planner,
    costs: &'a Costs,
) -> Result<Report<'a>, Failure> {
    let shape = config.costs.shape;
    let each = shape.ranks();
    let wanted = config.costs.replicas.unwrap_or(1);
    let planners = planner.planning.ranks;
    let gpus = arguments.gpus.unwrap_or(wanted * each + planners);
    if gpus < each + planners {
        let message = format!(
            "{gpus} GPUs are too few: a replica of this topology has {each} ranks, and {planners} \
             more plan"
        );
        return Err(Failure::new(Exit::Config, message));
    }
    let estimate = planner.try_layout(&shape, (gpus - planners) / each);
    let shapes = legal_shapes(config.costs.shape, &costs.table, gpus);
    let deadline = arguments.deadline.map(|seconds| Deadline {
        seconds,
        met: estimate.fits && estimate.finish_seconds <= seconds,
        cheapest: planner.cheapest(&shapes, gpus, seconds),
    });
    let workload = planner.workload;
    let notes = costs.notes.iter().cloned();
    Ok(Report {
        stories: workload.chains.len(),
        to_plan: workload.to_plan,
        shots: workload.shots,
        shots_left_out: workload.left_out,
        idle_gpus: gpus - estimate.layout.gpus,
        estimate,
        disk: workload.disk(&costs.table, max_keyframes(&config.engine.storymem)),
        soonest: planner.soonest(&shapes, gpus),
        deadline,
        notes: notes.collect(),
        costs: &costs.table,
        subject: costs.subject,
        on_cpu: config.costs.compute.device == Device::Cpu,
    })
}

/// Every way to divide a denoiser that the topology and the model allow on one node, with the
/// config's encoders and decoders.
fn legal_shapes(own: ReplicaShape, table: &CostTable, gpus: usize) -> Vec<ReplicaShape> {
    let most = table.links.gpus_per_node.min(gpus);
    let (heads, ffn) = (table.transformer.heads, table.transformer.ffn);
    let mut shapes = vec![own];
    for (tensor, sequence, cfg) in degrees_up_to(most) {
        let degrees = Degrees {
            tensor,
            sequence,
            cfg,
        };
        let plan = Plan {
            replicas: None,
            degrees,
            encoders: own.encoders,
            decoders: own.decoders,
            planners: 0,
            planner_tensor: 1,
        };
        let shape = ReplicaShape {
            sharing: Sharing {
                tensor,
                sequence,
                cfg,
            },
            ..own
        };
        let is_legal = plan.ranks() <= most
            && plan.lay_out(plan.ranks()).is_ok()
            && degrees
                .check_model("the model", heads as usize, ffn as usize)
                .is_ok();
        if is_legal && shape != own {
            shapes.push(shape);
        }
    }
    shapes
}

/// Tensor, sequence and cfg ranks of denoisers of at most `most` ranks.
fn degrees_up_to(most: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let all = (1..=most).flat_map(move |tensor| {
        let sequences = 1..=most / tensor;
        sequences.flat_map(move |sequence| [1, 2].map(|cfg| (tensor, sequence, cfg)))
    });
    all.filter(move |(tensor, sequence, cfg)| tensor * sequence * cfg <= most)
}

fn max_keyframes(storymem: &StoryMem) -> usize {
    match storymem.selection {
        SelectionRule::Semantic => storymem.max_keyframes,
        SelectionRule::FirstFrame => 1,
    }
}

fn shot_settings(config: &Resolved) -> Result<ShotSettings, Failure> {
    let storymem = &config.engine.storymem;
    Ok(ShotSettings {
        method: config.engine.method,
        video: config.films.video,
        grid: config.films.grid,
        window: WindowSettings {
            max_images: storymem.max_images,
            sink: storymem.sink.min(storymem.max_images),
        },
        max_keyframes: max_keyframes(storymem),
        continuation: storymem.continuation,
        samplings: costs::samplings(&config.costs)?,
    })
}

/// Reads `1d12h`, `90m`, `300s` or `300` as seconds.
fn duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no time; write 8h, 90m, 1d12h or 300s");
    let mut seconds = 0.0;
    let mut number = String::new();
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' | '.' => {
                number.push(letter);
                continue;
            }
            'd' => 86_400.0,
            'h' => 3600.0,
            'm' => 60.0,
            's' => 1.0,
            _ => return Err(wrong()),
        };
        seconds += unit * number.parse::<f64>().map_err(|_| wrong())?;
        number.clear();
    }
    if !number.is_empty() {
        seconds += number.parse::<f64>().map_err(|_| wrong())?;
    }
    match seconds > 0.0 && f64::is_finite(seconds) {
        true => Ok(seconds),
        false => Err(wrong()),
    }
}

fn text(report: &Report) -> String {
    let estimate = &report.estimate;
    let source = match report.subject {
        Subject::AsAsked => report.costs.source.as_str(),
        Subject::Gpus => "none, for there is no table of this machine",
    };
    let mut text = format!(
        "{} stories, {} shots to make; {} left out\ntimes: {source}\n\n",
        report.stories, report.shots, report.shots_left_out
    );
    let mut rows = vec![("layout".to_owned(), layout(estimate))];
    if report.idle_gpus > 0 {
        let idle = format!("{} GPUs are left over", report.idle_gpus);
        rows.push(("idle".to_owned(), idle));
    }
    if report.subject == Subject::AsAsked {
        rows.extend(time_rows(estimate));
    }
    let (all, shot) = (report.disk.bytes, report.disk.per_shot.total());
    let disk = format!("{}, {} a shot", size(all), size(shot));
    rows.push(("disk".to_owned(), disk));
    let (shot, longest) = (report.disk.per_shot.remembered, report.disk.longest_memory);
    let memory = format!(
        "{} a shot, {} of the story with most",
        size(shot),
        size(longest)
    );
    rows.push(("  of it memory".to_owned(), memory));
    if report.subject == Subject::AsAsked {
        rows.extend(layout_rows(report));
    }
    for (name, value) in rows {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name:<16} {value}");
    }
    for note in &report.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    text
}

/// How long it takes.
fn time_rows(estimate: &Estimate) -> Vec<(String, String)> {
    let mut rows = vec![
        ("done after", human(estimate.finish_seconds)),
        ("  at best", human(estimate.lower_bound_seconds)),
        ("GPU-hours", format!("{:.1}", estimate.gpu_hours)),
        ("shots per hour", format!("{:.1}", estimate.shots_per_hour)),
        (
            "denoiser busy",
            format!("{:.1} %", estimate.denoiser_busy * 100.0),
        ),
    ];
    if let Some(chain) = &estimate.longest_chain {
        let time = human(chain.seconds);
        let chain = format!("{}, {} shots, {time}", chain.story, chain.shots);
        rows.push(("longest chain", chain));
    }
    rows.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// What GPUs it needs, and which would do.
fn layout_rows(report: &Report) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    if !report.on_cpu {
        rows.push(("GPU memory".to_owned(), memory(&report.estimate)));
    }
    rows.extend([
        (String::new(), String::new()),
        ("soonest".to_owned(), best(report.soonest.as_ref())),
    ]);
    if let Some(deadline) = &report.deadline {
        let name = format!("by {}", human(deadline.seconds));
        rows.push((name, best(deadline.cheapest.as_ref())));
    }
    rows
}

fn layout(estimate: &Estimate) -> String {
    let layout = &estimate.layout;
    let Sharing {
        tensor,
        sequence,
        cfg,
    } = layout.shape.sharing;
    let mut text = format!(
        "{} replicas x tensor {tensor} x sequence {sequence} x cfg {cfg}",
        layout.replicas
    );
    let (encoders, decoders) = (layout.shape.encoders, layout.shape.decoders);
    if encoders + decoders > 0 {
        let _ = write!(text, " + {encoders} encoders + {decoders} decoders");
    }
    let _ = write!(text, " = {} GPUs", layout.gpus);
    text
}

fn best(found: Option<&Estimate>) -> String {
    match found {
        Some(found) => format!(
            "{}: {}, {:.1} GPU-hours",
            layout(found),
            human(found.finish_seconds),
            found.gpu_hours
        ),
        None => "no layout on this number of GPUs".to_owned(),
    }
}

fn memory(estimate: &Estimate) -> String {
    let needed = format!(
        "about {:.0} GB on the first of a replica",
        estimate.gpu_memory_gb
    );
    match estimate.fits {
        true => needed,
        false => format!("{needed}: THIS DOES NOT FIT"),
    }
}

fn human(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{seconds:.1} s"),
        2..60 => format!("{minutes} min"),
        60..2880 => format!("{} h {:02} min", minutes / 60, minutes % 60),
        _ => format!("{} d {:02} h", minutes / 1440, minutes % 1440 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds) in [
            ("8h", 28_800.0),
            ("1d12h", 129_600.0),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("300", 300.0),
            ("90s", 90.0),
        ] {
            assert_eq!(duration(text), Ok(seconds));
        }
        for text in ["", "h", "8x", "0", "-3h", "1..5h", "tomorrow"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let texts = [3.12, 600.0, 5400.0, 172_800.0, 400_000.0].map(human);
        assert_eq!(
            texts,
            ["3.1 s", "10 min", "1 h 30 min", "2 d 00 h", "4 d 15 h"]
        );
        assert_eq!([500.0, 2.5e9].map(size), ["0.5 kB", "2.5 GB"]);
    }

    #[test]
    fn layouts_are_those_of_the_topology() {
        let config = Resolved::new(crate::config::Config::default());
        let table = CostTable::default();
        let shapes = |gpus: usize| {
            let shapes = legal_shapes(config.costs.shape, &table, gpus);
            let mut found: Vec<_> = shapes
                .iter()
                .map(|shape| {
                    let Sharing {
                        tensor,
                        sequence,
                        cfg,
                    } = shape.sharing;
                    (tensor, sequence, cfg)
                })
                .collect();
            found.sort_unstable();
            found
        };
        assert_eq!(shapes(1), [(1, 1, 1)]);
        assert_eq!(shapes(2), [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]);
        // 40 heads: sequence 5 divides them, tensor 5 does not divide the feed-forward.
        let large = shapes(64);
        assert!(large.contains(&(1, 5, 1)) && !large.contains(&(5, 1, 1)));
        assert!(large.contains(&(2, 2, 2)) && !large.contains(&(3, 1, 1)));
        assert!(large.iter().all(|(t, s, c)| t * s * c <= 8));
    }
}
