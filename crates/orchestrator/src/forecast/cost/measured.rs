//! A cost table from the commit records of an earlier run.

use std::collections::BTreeMap;

use storyloom_memory::ShotRecord;
use storyloom_memory::arrays::EMBEDDING;
use storyloom_story::{LatentGrid, Opening, Stage};

use super::{
    CostTable, DenoiseCosts, DiskCosts, MeasuredForward, PlanCost, Remembers, ReplicaShape,
    Samplings, ShotWork, StageCost, StageCosts, forward_seconds,
};
use crate::error::RunError;
use crate::folder::plans::read_plan;
use crate::folder::records::readable_record;
use crate::folder::run_folder::{RunFolder, StoryState};

/// What the records of a run do not say of it.
#[derive(Debug, Clone, Copy)]
pub struct Observed {
    /// Its sampling loops.
    pub samplings: Samplings,
    /// Its replicas.
    pub shape: ReplicaShape,
    /// How its networks divide videos.
    pub grid: LatentGrid,
}

/// Times, sizes and pictures of the finished shots of a run; what its records do not know stays as
/// it is in `base`.
///
/// The time of a step is taken to be `a + b * forwards * m(tokens)`, where `m` is the model of the
/// machine in `base`, and fitted by least squares with neither below 0. All other stages are means:
/// of every shot (`plan`, `encode`), of every frame (`select`), of every pixel (`decode`, `commit`).
pub fn measure(
    folder: &RunFolder,
    observed: &Observed,
    base: CostTable,
) -> Result<CostTable, RunError> {
    let run = folder.run_file()?;
    let mut seen = Seen::default();
    for id in &run.stories {
        let file = folder.story_file(id)?;
        if file.brief.is_some()
            && let Ok(Some(plan)) = read_plan(folder, id)
        {
            let share = plan.seconds / f64::from(plan.batch.max(1));
            seen.plans.0 += share;
            seen.plans.1 += plan.script.shot_count() as f64;
        }
        let mut in_stages = 0.0;
        for (place, (shot, _)) in file.shots().enumerate() {
            if let Some(record) = readable_record(folder, id, shot) {
                in_stages += record.seconds().values().sum::<f64>();
                let is_ready_made = place == 0 && file.first_shot.is_some();
                seen.add(&record, (place, is_ready_made), observed);
            }
        }
        if let Some(work) = file.work.filter(|_| file.state == StoryState::Done) {
            seen.ends.extend(work.end);
            let shots = file.shot_count() as f64;
            seen.records
                .push((work.useful - in_stages).max(0.0) / shots.max(1.0));
        }
    }
    if seen.shots.is_empty() {
        return Err(RunError::Setting(format!(
            "{}: no shot is finished yet, so nothing was measured",
            folder.root().display()
        )));
    }
    Ok(CostTable {
        source: format!(
            "measured: {} shots of {}",
            seen.shots.len(),
            folder.root().display()
        ),
        shares_gpu: false,
        keyframes_per_shot: ratio(seen.keyframes).unwrap_or(base.keyframes_per_shot),
        pictures_seen: seen.pictures_by_place(),
        planning: ratio(seen.plans).map_or(base.planning, |per_shot| PlanCost {
            seconds: 0.0,
            per_shot,
        }),
        denoise: seen.denoise(observed, &base),
        stages: seen.stages(&base.stages),
        disk: seen.disk(&base.disk),
        ..base
    })
}

/// What is read out of the records.
#[derive(Default)]
struct Seen {
    shots: Vec<Shot>,
    /// Keyframes, and the shots that they were kept of.
    keyframes: (f64, f64),
    /// Number and sum of the pictures that the first, second, … shot of a story saw.
    places: BTreeMap<usize, (f64, f64)>,
    /// Seconds between the last record of a story and its end.
    ends: Vec<f64>,
    /// Seconds from the end of the stages of a shot to its next shot, by story.
    records: Vec<f64>,
    /// Seconds of planning, and the shots that were planned.
    plans: (f64, f64),
    bytes: Bytes,
}

struct Shot {
    work: ShotWork,
    seconds: BTreeMap<Stage, f64>,
}

/// Sizes, and the pixels or files that they are of.
#[derive(Default)]
struct Bytes {
    video: (f64, f64),
    picture: (f64, f64),
    embedding: (f64, f64),
}

fn add(sum: &mut (f64, f64), bytes: u64, of: f64) {
    sum.0 += bytes as f64;
    sum.1 += of;
}

fn ratio((sum, of): (f64, f64)) -> Option<f64> {
    (of > 0.0).then(|| sum / of)
}

impl Seen {
    fn add(
        &mut self,
        record: &ShotRecord,
        (place, is_ready_made): (usize, bool),
        observed: &Observed,
    ) {
        let request = record.request();
        let memory = record.seen().len() as f64;
        let video = (request.video, observed.grid);
        let work = observed
            .samplings
            .work(request.method, request.opening, video, memory);
        let work = match is_ready_made {
            true => work.ready_made(),
            false => work,
        };
        let has_keyframes = work.remembers == Remembers::Keyframes;
        if request.opening != Opening::Text && has_keyframes {
            let pictures = self.places.entry(place).or_default();
            *pictures = (pictures.0 + 1.0, pictures.1 + memory);
        }
        let (width, height) = record.frame_size();
        let picture = f64::from(width) * f64::from(height);
        let frames = f64::from(record.frame_count());
        add(
            &mut self.bytes.video,
            record.file().content.bytes,
            picture * frames,
        );
        let kept = record.kept();
        for item in &kept {
            if let Some(png) = &item.picture {
                add(&mut self.bytes.picture, png.content.bytes, picture);
            }
            if let Some(embedding) = item.arrays.get(EMBEDDING) {
                add(&mut self.bytes.embedding, embedding.bytes, 1.0);
            }
        }
        if has_keyframes {
            self.keyframes.0 += kept.len() as f64;
            self.keyframes.1 += 1.0;
        }
        self.shots.push(Shot {
            work,
            seconds: record.seconds().clone(),
        });
    }

    /// Mean number of pictures seen by place in the story; gaps take the place before.
    fn pictures_by_place(&self) -> Vec<f64> {
        let places = self.places.keys().max().map_or(0, |last| last + 1);
        let mut means = Vec::with_capacity(places);
        let mut last = 0.0;
        for place in 0..places {
            if let Some((count, sum)) = self.places.get(&place) {
                last = sum / count;
            }
            means.push(last);
        }
        means
    }

    /// Sum of a stage over some shots, over the sum of something else of them.
    fn rate(
        &self,
        stage: Stage,
        of: impl Fn(&ShotWork) -> f64,
        which: impl Fn(&ShotWork) -> bool,
    ) -> Option<f64> {
        let mut sums = (0.0, 0.0);
        for shot in self.shots.iter().filter(|shot| which(&shot.work)) {
            if let Some(seconds) = shot.seconds.get(&stage) {
                sums = (sums.0 + seconds, sums.1 + of(&shot.work));
            }
        }
        ratio(sums)
    }

    fn stages(&self, base: &StageCosts) -> StageCosts {
        let all = |_: &ShotWork| true;
        let each = |_: &ShotWork| 1.0;
        let frames = |work: &ShotWork| work.clip().0;
        let pixels = |work: &ShotWork| work.clip().1;
        let continues = |work: &ShotWork| work.opening.given_frames() > 0;
        // A ready-made shot was encoded before its stages.
        let sampled = |work: &ShotWork| work.steps > 0;
        let constant = |seconds: Option<f64>, otherwise: StageCost| {
            seconds.map_or(otherwise, StageCost::constant)
        };
        let per_megapixel = |seconds: Option<f64>, otherwise: StageCost| match seconds {
            Some(per_megapixel) => StageCost {
                per_megapixel,
                ..StageCost::default()
            },
            None => otherwise,
        };
        let own = self.rate(Stage::Encode, each, |work| {
            !continues(work) && sampled(work)
        });
        let encode = own.or_else(|| self.rate(Stage::Encode, each, all));
        let longer = self.rate(Stage::Encode, each, continues);
        let clips = self.rate(Stage::Decode, pixels, continues).zip(
            // Seconds per shot into seconds per megapixel.
            self.rate(Stage::Decode, each, continues),
        );
        let continued = match (own, longer, clips) {
            (Some(own), Some(longer), Some((per_pixel, per_shot))) if per_shot > 0.0 => {
                Some((longer - own).max(0.0) * per_pixel / per_shot)
            }
            _ => None,
        };
        StageCosts {
            plan: constant(self.rate(Stage::Plan, each, all), base.plan),
            encode: constant(encode, base.encode),
            continued: per_megapixel(continued, StageCost::default()),
            decode: per_megapixel(self.rate(Stage::Decode, pixels, all), base.decode),
            select: match self.rate(Stage::Select, frames, all) {
                Some(per_frame) => StageCost {
                    per_frame,
                    ..StageCost::default()
                },
                None => base.select,
            },
            commit: per_megapixel(self.rate(Stage::Commit, pixels, all), base.commit),
            record: constant(mean(&self.records), base.record),
            story: constant(mean(&self.ends), base.story),
            // Records say nothing of what was before the first shot.
            start: StageCost::default(),
        }
    }

    fn denoise(&self, observed: &Observed, base: &CostTable) -> DenoiseCosts {
        let sharing = observed.shape.sharing;
        // Without what does not depend on the tokens, which is part of the line's constant.
        let model = |tokens: f64| {
            let (transformer, rates, links) = (&base.transformer, &base.rates, &base.links);
            let seconds = |tokens| forward_seconds(transformer, rates, links, sharing, tokens);
            seconds(tokens) - seconds(0.0)
        };
        let mut points = Vec::with_capacity(self.shots.len());
        for Shot { work, seconds } in self.shots.iter().filter(|shot| shot.work.steps > 0) {
            if let Some(seconds) = seconds.get(&Stage::Denoise) {
                let forwards = (work.forwards / sharing.cfg as f64).max(1.0);
                let steps = f64::from(work.steps);
                points.push((forwards * model(work.tokens()), seconds / steps));
            }
        }
        if points.is_empty() {
            return base.denoise;
        }
        let (step_seconds, factor) = line(&points);
        // The model is a sum of tokens and their squares: two values give both factors.
        let [one, two] = [1e4, 2e4].map(model);
        let per_token_squared = (two - 2.0 * one) / (2.0 * 1e8);
        let per_token = one / 1e4 - per_token_squared * 1e4;
        DenoiseCosts {
            step_seconds,
            measured: Some(MeasuredForward {
                per_token: factor * per_token,
                per_token_squared: factor * per_token_squared,
                sharing,
            }),
        }
    }

    fn disk(&self, base: &DiskCosts) -> DiskCosts {
        let bytes = &self.bytes;
        let bits = ratio(bytes.video).map(|bytes| 8.0 * bytes);
        DiskCosts {
            video_bits_per_pixel: bits.unwrap_or(base.video_bits_per_pixel),
            picture_bytes_per_pixel: ratio(bytes.picture).unwrap_or(base.picture_bytes_per_pixel),
            embedding_bytes: ratio(bytes.embedding).unwrap_or(base.embedding_bytes),
            record_bytes: base.record_bytes,
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The line `a + b * x` through the points with the least squares, neither `a` nor `b` below 0.
/// Through the origin if all points have the same `x`.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let sum = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
    let (x, y) = (sum(|p| p.0) / count, sum(|p| p.1) / count);
    let (square, product) = (sum(|p| p.0 * p.0), sum(|p| p.0 * p.1));
    if points.is_empty() || square == 0.0 {
        return (if points.is_empty() { 0.0 } else { y }, 0.0);
    }
    let through_origin = (0.0, product / square);
    let spread = square - count * x * x;
    if spread <= 1e-9 * square {
        return through_origin;
    }
    let slope = (product - count * x * y) / spread;
    let start = y - slope * x;
    if slope < 0.0 {
        (y, 0.0)
    } else if start < 0.0 {
        through_origin
    } else {
        (start, slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_through_what_lies_on_them() {
        assert_eq!(line(&[]), (0.0, 0.0));
        assert_eq!(line(&[(2.0, 6.0), (2.0, 6.0)]), (0.0, 3.0));
        assert_eq!(line(&[(1.0, 5.0), (2.0, 5.0)]), (5.0, 0.0));
        assert_eq!(line(&[(1.0, 5.0), (3.0, 4.0)]), (4.5, 0.0), "never falling");
        assert_eq!(line(&[(0.0, 5.0)]), (5.0, 0.0));
        let (start, slope) = line(&[(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]);
        assert!((start - 1.0).abs() < 1e-12 && (slope - 2.0).abs() < 1e-12);
        let (start, slope) = line(&[(1.0, 0.5), (2.0, 2.0)]);
        assert!(start == 0.0 && slope > 0.5, "not below zero at zero");
    }
}
