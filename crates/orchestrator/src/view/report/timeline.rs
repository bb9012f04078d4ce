//! The timeline of a run: who worked on what stage, and when somebody was stopped.
//!
//! Its size is bounded: one of more pieces than [`PIECES`] is drawn as columns of equal time,
//! and more replicas than [`LANES`] share the last lane.

use std::collections::BTreeMap;

use serde::Serialize;
use storyloom_telemetry::shift::{Shift, ShiftEnd};

use super::lane::{Piece, Shape, Span, columns, pieces, shapes};
use super::text::{clock, day, duration, grouped, moment};

/// Lanes at most; the last one stands for all further replicas.
const LANES: usize = 40;
/// Pieces that are drawn one by one at most.
const PIECES: usize = 6000;
/// Columns of a lane at most.
const COLUMNS: usize = 400;
/// Marks of a lane are at least this far apart, in percent of the timeline.
const MARK_DISTANCE: f64 = 1.25;
/// A pause after which another stretch of the run begins, in seconds.
const PAUSE: f64 = 4.0 * 3600.0;

/// The drawing of a stretch of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Timeline {
    pub begun: String,
    pub length: String,
    /// Shots that were made in an hour of the clock.
    pub rate: String,
    /// Programs that are still at work.
    pub at_work: usize,
    pub ticks: Vec<Tick>,
    pub lanes: Vec<LaneView>,
    /// How much time a column stands for, if stages are not drawn one by one.
    pub column: Option<String>,
    /// Shifts of earlier stretches, which are not drawn.
    pub earlier: usize,
    /// Whether stories were planned.
    pub plans: bool,
    /// Whether some stages took time in vain.
    pub lost: bool,
}

/// A time on the axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Tick {
    /// Where, in percent.
    pub at: f64,
    pub label: String,
}

/// One replica, whatever shifts it was in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LaneView {
    pub label: String,
    pub shifts: usize,
    pub shots: String,
    /// Time in which its programs lived.
    pub alive: String,
    pub preempted: usize,
    pub shapes: Vec<Shape>,
    pub marks: Vec<Mark>,
}

/// A program was stopped or killed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Mark {
    /// Where, in percent.
    pub at: f64,
    pub text: String,
}

/// Whether a shift was ended from outside.
pub(super) fn preempted(shift: &Shift, goes_on: bool) -> bool {
    match shift.end {
        Some((_, ShiftEnd::Stopped)) => true,
        Some(_) => false,
        None => !goes_on,
    }
}

/// Draws the last stretch of the shifts, which are in the order in which they began; `None` if there
/// are none.
pub(super) fn draw(shifts: &[Shift], goes_on: impl Fn(&Shift) -> bool) -> Option<Timeline> {
    let first = last_stretch(shifts);
    let drawn = &shifts[first..];
    let span = Span {
        begun: drawn.first()?.begun,
        end: drawn.iter().map(Shift::until).fold(f64::MIN, f64::max),
    };
    let seats = lanes(drawn);
    let all: Vec<Vec<Piece>> = seats
        .iter()
        .map(|(_, seat)| {
            seat.iter()
                .flat_map(|shift| pieces(shift, goes_on(shift)))
                .collect()
        })
        .collect();
    let count: usize = all.iter().map(Vec::len).sum();
    let exact = count <= PIECES && seats.iter().all(|(label, _)| label.seats == 1);
    let number = (PIECES * 2 / seats.len().max(1)).clamp(100, COLUMNS);
    let views = seats
        .iter()
        .zip(&all)
        .map(|((label, seat), pieces)| LaneView {
            label: label.text.clone(),
            shifts: seat.len(),
            shots: grouped(seat.iter().map(|shift| committed(shift) as u64).sum()),
            alive: duration(seat.iter().map(|shift| shift.until() - shift.begun).sum()),
            preempted: seat
                .iter()
                .filter(|shift| preempted(shift, goes_on(shift)))
                .count(),
            shapes: match exact {
                true => shapes(pieces, span),
                false => columns(pieces, span, number, label.seats),
            },
            marks: marks(seat, span, &goes_on),
        });
    Some(Timeline {
        begun: super::text::stamp(span.begun),
        length: duration(span.seconds()),
        rate: rate(drawn, span),
        at_work: drawn.iter().filter(|shift| goes_on(shift)).count(),
        ticks: ticks(span),
        lanes: views.collect(),
        column: (!exact).then(|| duration(span.seconds() / number as f64)),
        earlier: first,
        plans: drawn.iter().any(|shift| !shift.all_plans().is_empty()),
        lost: all.iter().flatten().any(|piece| piece.class == "lost"),
    })
}

fn rate(shifts: &[Shift], span: Span) -> String {
    let shots: usize = shifts.iter().map(committed).sum();
    let hours = span.seconds() / 3600.0;
    grouped((shots as f64 / hours).round() as u64)
}

fn committed(shift: &Shift) -> usize {
    use storyloom_telemetry::AttemptEnd::Committed;
    let attempts = shift.attempts.iter();
    attempts
        .filter(|attempt| attempt.end == Some(Committed))
        .count()
}

/// Where the last stretch begins among the shifts.
fn last_stretch(shifts: &[Shift]) -> usize {
    let mut first = 0;
    let mut until = f64::MIN;
    for (place, shift) in shifts.iter().enumerate() {
        if place > 0 && shift.begun > until + PAUSE {
            first = place;
        }
        until = until.max(shift.until());
    }
    first
}

/// How a lane is called, and how many replicas it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    text: String,
    seats: usize,
}

/// Puts shifts that replaced each other on one seat: same host, same rank, one after the other.
fn lanes(shifts: &[Shift]) -> Vec<(Label, Vec<&Shift>)> {
    let mut seats: BTreeMap<(&str, usize), Vec<Vec<&Shift>>> = BTreeMap::new();
    for shift in shifts {
        let places = seats
            .entry((&shift.start.host, shift.start.rank))
            .or_default();
        let free =
            |seat: &&mut Vec<&Shift>| seat.last().is_none_or(|last| last.until() <= shift.begun);
        match places.iter_mut().find(free) {
            Some(seat) => seat.push(shift),
            None => places.push(vec![shift]),
        }
    }
    let mut lanes = Vec::new();
    for ((host, rank), places) in seats {
        for (number, seat) in places.into_iter().enumerate() {
            let twin = if number == 0 {
                String::new()
            } else {
                format!(" ({})", number + 1)
            };
            let text = format!("{host} rank {rank}{twin}");
            lanes.push((Label { text, seats: 1 }, seat));
        }
    }
    if lanes.len() > LANES {
        let rest = lanes.split_off(LANES - 1);
        let seats = rest.len();
        let text = format!("{seats} more replicas");
        let mut together: Vec<&Shift> = rest.into_iter().flat_map(|(_, seat)| seat).collect();
        together.sort_by(|one, two| one.begun.total_cmp(&two.begun));
        lanes.push((Label { text, seats }, together));
    }
    lanes
}

fn marks(seat: &[&Shift], span: Span, goes_on: impl Fn(&Shift) -> bool) -> Vec<Mark> {
    let mut marks: Vec<(f64, usize, String)> = Vec::new();
    let mut ends = seat.to_vec();
    ends.retain(|shift| preempted(shift, goes_on(shift)));
    ends.sort_by(|one, two| one.until().total_cmp(&two.until()));
    for shift in ends {
        let at = 100.0 * span.share(shift.until());
        let how = if shift.end.is_some() {
            "stopped, all saved"
        } else {
            "killed"
        };
        match marks.last_mut() {
            Some((last, count, _)) if at - *last < MARK_DISTANCE => *count += 1,
            _ => {
                let when = moment(shift.until()).map_or_else(String::new, clock);
                marks.push((at, 1, format!("{how} at {when} UTC")));
            }
        }
    }
    let mark = |(at, count, text): (f64, usize, String)| Mark {
        at: (at * 100.0).round() / 100.0,
        text: match count {
            1 => text,
            _ => format!("{text}, and {} more ends soon after", count - 1),
        },
    };
    marks.into_iter().map(mark).collect()
}

/// Full times of the clock inside the span, eight at most.
fn ticks(span: Span) -> Vec<Tick> {
    const STEPS: [f64; 15] = [
        1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0,
        43_200.0, 86_400.0,
    ];
    let fits = |step: &f64| span.seconds() / step <= 8.0;
    let step = STEPS.into_iter().find(fits);
    let step = step.unwrap_or_else(|| (span.seconds() / 8.0 / 86_400.0).ceil() * 86_400.0);
    let first = (span.begun / step).ceil();
    let times = (0..=8).map(|number| (first + f64::from(number)) * step);
    times
        .take_while(|time| *time <= span.end)
        .filter_map(|time| {
            let at = moment(time)?;
            let label = match step {
                _ if step >= 86_400.0 => day(at),
                _ if step < 60.0 => format!("{}:{:02}", clock(at), at.second()),
                _ => clock(at),
            };
            Some(Tick {
                at: (10_000.0 * span.share(time)).round() / 100.0,
                label,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storyloom_story::{ShotId, Stage, StoryId};
    use storyloom_telemetry::AttemptEnd;
    use storyloom_telemetry::shift::{Attempt, ShiftStart, StageSpan};

    const START: f64 = 1_795_000_000.0;

    fn shift(rank: usize, begun: f64, until: f64, end: Option<ShiftEnd>) -> Shift {
        Shift {
            id: format!("{rank} {begun}"),
            start: ShiftStart {
                host: "node".to_owned(),
                rank,
                ..ShiftStart::default()
            },
            begun: START + begun,
            loaded: Some(START + begun + 1.0),
            attempts: Vec::new(),
            recovered: Vec::new(),
            plans: Vec::new(),
            incidents: Vec::new(),
            end: end.map(|how| (START + until, how)),
            live: None,
            last_seen: START + until,
        }
    }

    /// Shots of ten seconds, one after the other.
    fn busy(mut shift: Shift, shots: u32) -> Shift {
        for number in 1..=shots {
            let begun = shift.begun + 1.0 + f64::from(number - 1) * 10.0;
            let span = |stage, after: f64, seconds| StageSpan {
                stage,
                begun: begun + after,
                seconds,
                waited: 0.0,
            };
            shift.attempts.push(Attempt {
                story: StoryId::new("tale").unwrap(),
                shot: ShotId {
                    scene: 1,
                    shot: number,
                },
                attempt: 0,
                begun,
                end: Some(AttemptEnd::Committed),
                resumed_step: None,
                stages: vec![
                    span(Stage::Encode, 0.0, 1.0),
                    span(Stage::Denoise, 1.0, 7.0),
                    span(Stage::Decode, 8.0, 1.5),
                ],
                saved: Vec::new(),
                recorded: None,
                reason: None,
                ended: begun + 9.5,
            });
        }
        shift
    }

    fn timeline(shifts: &[Shift]) -> Timeline {
        draw(shifts, |_| false).unwrap()
    }

    fn size(timeline: &Timeline) -> usize {
        serde_json::to_string(timeline).unwrap().len()
    }

    #[test]
    fn one_lane_for_those_that_replaced_each_other() {
        let shifts = [
            shift(0, 0.0, 100.0, None),
            shift(1, 0.0, 300.0, Some(ShiftEnd::Done)),
            shift(0, 120.0, 200.0, Some(ShiftEnd::Stopped)),
            shift(0, 150.0, 300.0, Some(ShiftEnd::Failed)),
        ];
        let timeline = timeline(&shifts);
        let lanes: Vec<_> = timeline
            .lanes
            .iter()
            .map(|lane| (lane.label.as_str(), lane.shifts, lane.preempted))
            .collect();
        let wanted = [
            ("node rank 0", 2, 2),
            ("node rank 0 (2)", 1, 0),
            ("node rank 1", 1, 0),
        ];
        assert_eq!(lanes, wanted);
        let marks: Vec<_> = timeline.lanes[0]
            .marks
            .iter()
            .map(|mark| mark.text.as_str())
            .collect();
        assert_eq!(
            marks,
            ["killed at 11:08 UTC", "stopped, all saved at 11:10 UTC"]
        );
        assert_eq!(timeline.column, None);
    }

    #[test]
    fn a_long_stretch_on_many_ranks_stays_small() {
        let ranks: Vec<Shift> = (0..64)
            .flat_map(|rank| {
                let nine = (0..9).map(move |hour| (rank, f64::from(hour) * 3600.0));
                nine.map(|(rank, begun)| busy(shift(rank, begun, begun + 3000.0, None), 290))
            })
            .collect();
        let mut ranks = ranks;
        ranks.sort_by(|one, two| one.begun.total_cmp(&two.begun));
        let timeline = timeline(&ranks);
        assert_eq!(timeline.lanes.len(), LANES);
        assert_eq!(timeline.lanes[LANES - 1].label, "25 more replicas");
        assert_eq!(
            timeline.lanes.iter().map(|lane| lane.shifts).sum::<usize>(),
            64 * 9
        );
        assert!(timeline.column.is_some());
        assert!(size(&timeline) < 900_000, "{}", size(&timeline));
        assert!(timeline.ticks.len() <= 9, "{:?}", timeline.ticks);
    }

    #[test]
    fn a_short_stretch_is_drawn_as_it_was() {
        let timeline = timeline(&[busy(shift(0, 0.0, 100.0, Some(ShiftEnd::Done)), 2)]);
        let shapes = &timeline.lanes[0].shapes;
        let classes: Vec<_> = shapes.iter().map(|shape| shape.class).collect();
        assert_eq!(classes, ["decode", "denoise", "encode", "load"]);
        // The second shot denoises from second 12 to 19 of 100, in a drawing 1000 wide.
        assert!(
            shapes[1].path.contains("M120.0 8.0h70.0v18.0h-70.0z"),
            "{}",
            shapes[1].path
        );
        let ticks: Vec<_> = timeline
            .ticks
            .iter()
            .map(|tick| tick.label.as_str())
            .collect();
        assert_eq!((timeline.rate.as_str(), timeline.at_work), ("72", 0));
        assert_eq!(
            ticks,
            [
                "11:06:40", "11:07:00", "11:07:20", "11:07:40", "11:08:00", "11:08:20"
            ]
        );
    }

    #[test]
    fn only_the_last_stretch_is_drawn() {
        let day = 86_400.0;
        let shifts = [
            shift(0, 0.0, 100.0, Some(ShiftEnd::Stopped)),
            shift(0, day, day + 100.0, Some(ShiftEnd::Done)),
        ];
        let timeline = timeline(&shifts);
        assert_eq!((timeline.earlier, timeline.lanes[0].shifts), (1, 1));
        assert_eq!(draw(&[], |_| false), None);
    }
}
