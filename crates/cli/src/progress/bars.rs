//! A run as bars at the end of a terminal.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};
use storyloom_orchestrator::watch::{ShotView, View};
use storyloom_story::Stage;

use super::text;
use crate::logging::Screen;

/// Running shots that have a bar of their own.
const MOST: usize = 8;
const BAR: &str = "{prefix:<10} {bar:28} {pos}/{len} {wide_msg}";
const SHOT: &str = "  {prefix:<26!} {bar:10} {wide_msg}";
const WORDS: &str = "{wide_msg}";

/// Bars, which go away with it.
#[derive(Debug)]
pub struct Bars {
    screen: Screen,
    stories: ProgressBar,
    shots: ProgressBar,
    pace: ProgressBar,
    running: BTreeMap<String, ProgressBar>,
    more: ProgressBar,
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours, and a test draws with them.
    let style = ProgressStyle::with_template(template);
    style
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Bars {
    /// Empty bars on `screen`.
    pub fn new(screen: &Screen) -> Self {
        let bar = |template: &str, prefix: &'static str| {
            let bar = ProgressBar::new(0)
                .with_style(style(template))
                .with_prefix(prefix);
            screen.bars().add(bar)
        };
        let bars = Self {
            screen: screen.clone(),
            stories: bar(BAR, "stories"),
            shots: bar(BAR, "shots"),
            pace: bar(WORDS, ""),
            running: BTreeMap::new(),
            more: bar(WORDS, ""),
        };
        bars.pace.set_message("loading");
        bars
    }

    /// Draws the run as it is now.
    pub fn draw(&mut self, view: &View) {
        let status = &view.status;
        for (bar, counts) in [
            (&self.stories, &status.stories),
            (&self.shots, &status.shots),
        ] {
            bar.set_length(counts.total as u64);
            bar.set_position(counts.done as u64);
        }
        let given_up = text::given_up(&status.stories);
        self.stories.set_message(given_up.unwrap_or_default());
        self.pace.set_message(text::pace(view));
        let shots: Vec<_> = view.alive().flat_map(|worker| &worker.now).collect();
        self.draw_running(&shots);
        let stale = view.workers.len() - view.alive().count();
        let mut words = Vec::new();
        if shots.len() > MOST {
            words.push(format!("{} more shots", shots.len() - MOST));
        }
        if stale > 0 {
            words.push(format!("{stale} workers give no sign of life"));
        }
        self.more.set_message(words.join(", "));
    }

    fn draw_running(&mut self, shots: &[&ShotView]) {
        let shown: BTreeMap<String, &ShotView> = shots
            .iter()
            .take(MOST)
            .map(|shot| (format!("{} {}", shot.shot, shot.story), *shot))
            .collect();
        let multi = self.screen.bars();
        self.running.retain(|name, bar| {
            let stays = shown.contains_key(name);
            if !stays {
                multi.remove(bar);
            }
            stays
        });
        for (name, shot) in shown {
            let bar = self.running.entry(name.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(0)
                    .with_style(style(SHOT))
                    .with_prefix(name);
                multi.insert_before(&self.more, bar)
            });
            let steps = (shot.steps as u64).max(1);
            bar.set_length(steps);
            // What comes after the steps keeps a full bar.
            bar.set_position(match shot.stage {
                Some(Stage::Decode | Stage::Select | Stage::Commit) => steps,
                _ => shot.step as u64,
            });
            bar.set_message(text::doing(shot));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let own = [&self.stories, &self.shots, &self.pace, &self.more];
        for bar in own.into_iter().chain(self.running.values()) {
            bar.finish_and_clear();
        }
    }
}
