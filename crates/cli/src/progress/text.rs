//! A run in words.

use std::fmt::Write as _;

use storyloom_orchestrator::status::{Counts, Plans, Status};
use storyloom_orchestrator::watch::{PlanView, ShotView, View, WorkerState, WorkerView};

use super::stories::{self, Wanted};

/// Tenants whose stories are counted where nobody asked for more.
const TENANTS: usize = 20;

/// Running shots that a line names.
const NAMED: usize = 4;

/// The run in one line.
pub fn line(view: &View) -> String {
    let Status { stories, shots, .. } = &view.status;
    let mut parts = vec![
        format!("{}/{} stories", stories.done, stories.total),
        format!("{}/{} shots", shots.done, shots.total),
    ];
    parts.extend(plans(view));
    parts.extend(given_up(stories));
    parts.push(running(view));
    parts.push(pace(view));
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

/// How far planning is, while it goes on.
pub fn plans(view: &View) -> Option<String> {
    let Plans { total, done } = view.status.plans?;
    (done < total).then(|| format!("{done}/{total} planned"))
}

/// Stories that were given up.
pub fn given_up(stories: &Counts) -> Option<String> {
    let Counts {
        failed,
        quarantined,
        ..
    } = stories;
    match (failed, quarantined) {
        (0, 0) => None,
        (failed, 0) => Some(format!("{failed} failed")),
        (0, quarantined) => Some(format!("{quarantined} in quarantine")),
        (failed, quarantined) => Some(format!("{failed} failed, {quarantined} in quarantine")),
    }
}

/// Throughput, time left and goodput, as far as they are known.
pub fn pace(view: &View) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = view.status.shots_per_hour {
        parts.push(format!("{rate:.1} shots an hour"));
    }
    parts.extend(left(view));
    if let Some(goodput) = view.status.goodput {
        parts.push(format!("goodput {:.1} %", goodput * 100.0));
    }
    parts.join(", ")
}

/// The time left.
fn left(view: &View) -> Option<String> {
    let shots = &view.status.shots;
    let [low, high] = match view.eta_range_seconds {
        _ if shots.running + shots.pending == 0 => return None,
        Some(range) => range,
        None if nobody_works(view) => return Some("nobody works on it".to_owned()),
        None => return Some("time left not known yet".to_owned()),
    };
    let (low, high) = (human(low), human(high));
    Some(match low == high {
        true => format!("{low} left"),
        false => format!("{low} to {high} left"),
    })
}

/// Whether every program that was at work is known to be gone.
fn nobody_works(view: &View) -> bool {
    let mut workers = view.workers.iter();
    workers.all(|worker| worker.state == WorkerState::Dead)
}

fn running(view: &View) -> String {
    let shots: Vec<_> = view.alive().flat_map(|worker| &worker.now).collect();
    let mut names: Vec<String> = shots.iter().take(NAMED).map(|shot| at(shot)).collect();
    if shots.len() > NAMED {
        names.push(format!("{} more", shots.len() - NAMED));
    }
    let is_loading = |worker: &WorkerView| worker.state == WorkerState::Loading;
    if names.is_empty() && view.alive().any(is_loading) {
        names.push("loading".to_owned());
    }
    names.join(", ")
}

fn at(shot: &ShotView) -> String {
    format!("{} {} {}", shot.story, shot.shot, doing(shot))
}

/// What is done for a shot right now.
pub fn doing(shot: &ShotView) -> String {
    let again = match shot.attempt {
        0 => String::new(),
        attempt => format!(" (attempt {})", attempt + 1),
    };
    let doing = match shot.stage {
        None => "waits".to_owned(),
        Some(stage) if stage == storyloom_story::Stage::Denoise && shot.steps > 0 => {
            format!("{stage} {}/{}", shot.step, shot.steps)
        }
        Some(stage) => stage.to_string(),
    };
    doing + &again
}

/// The run in full: with the stories that are wanted, or else with the first of those that were given
/// up.
pub fn page(view: &View, wanted: Option<&Wanted>) -> String {
    let status = &view.status;
    let mut text = "          total   done  running  pending  failed  quarantined\n".to_owned();
    text.push_str(&row("stories", &status.stories));
    text.push_str(&row("shots", &status.shots));
    text.push_str(&tenants(status));
    text.push_str(&methods(status));
    text.push_str(&interrupted(&status.stories));
    text.push_str(&set_aside(&status.stories));
    if let Some(warning) = without_keyframes(status.without_keyframes) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{warning}");
    }
    // Writing to a text cannot fail.
    let parts = plans(view).into_iter().chain([pace(view)]);
    let _ = writeln!(text, "{}", parts.collect::<Vec<_>>().join("; "));
    for worker in &view.workers {
        text.push_str(&worker_lines(worker));
    }
    match wanted {
        Some(wanted) => text.push_str(&stories::list(status, wanted)),
        None => text.push_str(&stories::given_up(status)),
    }
    text
}

/// The stories of each tenant.
fn tenants(status: &Status) -> String {
    let all = &status.tenants;
    let mut text: String = all
        .iter()
        .take(TENANTS)
        .map(|(tenant, counts)| row(&format!("  {tenant}"), counts))
        .collect();
    if all.len() > TENANTS {
        let more = all.len() - TENANTS;
        // Writing to a text cannot fail.
        let _ = writeln!(text, "  … {more} more tenants; --json has all of them");
    }
    text
}

/// The stories of each method, where there is more than one.
fn methods(status: &Status) -> String {
    let all = status.methods.iter().filter(|_| status.methods.len() > 1);
    all.map(|(method, counts)| row(&format!("  {method}"), counts))
        .collect()
}

/// Says that stories have kept nothing that their shots could see.
pub fn without_keyframes(stories: usize) -> Option<String> {
    let who = match stories {
        0 => return None,
        1 => "1 story has kept no keyframe".to_owned(),
        count => format!("{count} stories have kept no keyframe"),
    };
    Some(format!(
        "{who}: no frame of theirs reached storymem.quality_threshold, so that their shots do not see \
         each other; `storyloom report` tells the best score of each"
    ))
}

fn interrupted(stories: &Counts) -> String {
    match stories.interrupted {
        0 => String::new(),
        1 => "1 of the pending stories was begun and waits for a program to go on\n".to_owned(),
        count => {
            format!("{count} of the pending stories were begun and wait for a program to go on\n")
        }
    }
}

fn set_aside(stories: &Counts) -> String {
    match stories.set_aside {
        0 => String::new(),
        1 => "1 of the failed stories is set aside: its input has changed or cannot be read\n"
            .to_owned(),
        count => format!(
            "{count} of the failed stories are set aside: their input has changed or cannot be read\n"
        ),
    }
}

fn row(name: &str, counts: &Counts) -> String {
    let Counts {
        total,
        done,
        running,
        pending,
        failed,
        quarantined,
        ..
    } = counts;
    format!(
        "{name:<8} {total:>6} {done:>6} {running:>8} {pending:>8} {failed:>7} {quarantined:>12}\n"
    )
}

fn worker_lines(worker: &WorkerView) -> String {
    let state = match worker.state {
        WorkerState::Loading => "loads".to_owned(),
        WorkerState::Working if !worker.planning.is_empty() && worker.now.is_empty() => {
            "plans".to_owned()
        }
        WorkerState::Working if worker.now.is_empty() => "has nothing to do".to_owned(),
        WorkerState::Working => "works".to_owned(),
        WorkerState::Stale => format!("STALE, no sign for {}", human(worker.silent_seconds)),
        WorkerState::Dead => format!("DEAD, last seen {} ago", human(worker.silent_seconds)),
    };
    let WorkerView {
        host,
        pid,
        rank,
        ranks,
        shots_done,
        ..
    } = worker;
    let size = match ranks {
        1 => String::new(),
        ranks => format!(" with {ranks} ranks"),
    };
    let made = match worker.plans_only {
        true => "plans only".to_owned(),
        false => format!("{shots_done} shots made"),
    };
    let mut text = format!("{host} pid {pid} rank {rank}{size}: {state}, {made}\n");
    for PlanView { story, seconds, .. } in &worker.planning {
        let (story, time) = (story.as_str(), human(*seconds));
        let _ = writeln!(text, "  {story:<30} {:<28} {time}", "plan");
    }
    for shot in &worker.now {
        let (story, time) = (shot.story.as_str(), human(shot.seconds));
        let _ = writeln!(
            text,
            "  {story:<30} {} {:<22} {time}",
            shot.shot,
            doing(shot)
        );
    }
    text
}

/// As much of a text as fits on a terminal, the rest of it told in the last row.
pub fn fit(text: &str, columns: usize, rows: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let shown = match lines.len() > rows {
        true => rows.saturating_sub(1),
        false => lines.len(),
    };
    let cut = |line: &&str| line.chars().take(columns).collect::<String>();
    let mut fitted: Vec<String> = lines[..shown].iter().map(cut).collect();
    if shown < lines.len() {
        fitted.push(cut(
            &format!("… {} more lines", lines.len() - shown).as_str()
        ));
    }
    fitted.join("\n")
}

/// A duration in seconds, to two places.
pub fn human(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        _ if seconds < 59.5 => format!("{seconds:.0} s"),
        0..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (3599.0, "1 h 0 min"),
            (7320.0, "2 h 2 min"),
        ] {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn a_page_fits() {
        assert_eq!(fit("one\ntwo\nthree", 80, 3), "one\ntwo\nthree");
        assert_eq!(fit("one\ntwo\nthree", 2, 2), "on\n… ");
        assert_eq!(fit("one\ntwo\nthree", 80, 2), "one\n… 2 more lines");
        assert_eq!(fit("äöü", 2, 1), "äö");
    }
}
