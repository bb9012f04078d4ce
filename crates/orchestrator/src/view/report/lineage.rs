//! The drawing of what each shot saw: shots in a row, what they kept on top of them (keyframes, or the whole
//! shot), and an arc from each of these to every shot that saw it.

use serde::Serialize;

/// Distance of two shots, in the drawing's units (pixels at full size).
const PITCH: f64 = 150.0;
/// Width of a shot's picture.
const CARD: f64 = 128.0;
/// Largest width of a keyframe.
const KEYFRAME: f64 = 30.0;
/// Left of the keyframes, where arcs end.
const PORT: f64 = 18.0;
/// Height of the highest arcs.
const HIGHEST: f64 = 190.0;
/// Colours of arcs in the style sheet; the shot a keyframe comes from decides.
const COLOURS: usize = 6;

/// What is drawn of one shot, or of the reference images.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Column {
    /// What stands below it.
    pub label: String,
    /// Where it links to; `None` for reference images.
    pub shot: Option<String>,
    /// Its picture.
    pub poster: Option<String>,
    /// What it kept.
    pub kept: Vec<Kept>,
    /// What it saw: column, and place among what that column kept.
    pub saw: Vec<(usize, usize)>,
}

/// Something that a shot kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    /// Its small picture.
    pub small: Option<String>,
    /// How it is called.
    pub name: String,
    /// Whether it is the whole shot, and not one of its frames.
    pub is_whole: bool,
}

/// The drawing, ready to be written as SVG.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Lineage {
    pub width: f64,
    pub height: f64,
    /// Where shots begin and keyframes end.
    pub line: f64,
    pub card_width: f64,
    pub card_height: f64,
    pub cards: Vec<Card>,
    pub arcs: Vec<Arc>,
    /// The drawing in one sentence.
    pub summary: String,
    /// What its marks and arcs are.
    pub legend: &'static str,
}

/// What marks and arcs are where keyframes are kept.
const OF_KEYFRAMES: &str = "On top of a shot are the keyframes it left in memory. An arc leads from a keyframe to every \
                            shot that saw it.";

/// What they are where whole shots are kept.
const OF_SHOTS: &str = "The mark on top of a shot is the shot itself, all of which stays in memory. An arc leads from it \
                        to every later shot that saw some of its frames.";

/// A shot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Card {
    pub left: f64,
    pub middle: f64,
    pub label: String,
    pub shot: Option<String>,
    pub poster: Option<String>,
    pub keyframes: Vec<Thumb>,
    /// Where arcs end, if any do.
    pub port: Option<f64>,
}

/// A keyframe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Thumb {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub small: Option<String>,
    pub name: String,
    /// How many shots saw it.
    pub seen_by: usize,
}

/// From a keyframe to a shot that saw it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Arc {
    pub path: String,
    pub from: usize,
    pub to: usize,
    pub colour: usize,
    pub name: String,
}

/// Draws the columns; `aspect` is width over height of the pictures. `None` if nothing was kept.
pub(super) fn draw(columns: &[Column], aspect: f64) -> Option<Lineage> {
    if columns.iter().all(|column| column.kept.is_empty()) {
        return None;
    }
    let tallest = arc_height(longest(columns));
    let line = tallest + 10.0 + KEYFRAME / aspect.clamp(0.6, 3.0);
    let card_height = CARD / aspect.clamp(1.0, 3.0);
    let mut cards: Vec<Card> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| card(place, column, line, aspect))
        .collect();
    let mut arcs = Vec::new();
    for (to, column) in columns.iter().enumerate() {
        for &(from, place) in &column.saw {
            let Some(thumb) = cards
                .get_mut(from)
                .and_then(|card| card.keyframes.get_mut(place))
            else {
                continue;
            };
            thumb.seen_by += 1;
            let start = (thumb.left + thumb.width / 2.0, thumb.top);
            let name = format!("{}, seen by {}", thumb.name, column.label);
            let end = (left_of(to) + PORT / 2.0, line - 4.0);
            arcs.push(Arc {
                path: arc(start, end),
                from,
                to,
                colour: from % COLOURS,
                name,
            });
        }
    }
    let seen = cards.iter().flat_map(|card| &card.keyframes);
    let seen = seen.filter(|thumb| thumb.seen_by > 0).count();
    let mut kept = columns.iter().flat_map(|column| &column.kept);
    let (noun, legend) = match kept.any(|kept| kept.is_whole) {
        true => ("items", OF_SHOTS),
        false => ("pictures", OF_KEYFRAMES),
    };
    let summary = summary(columns, noun, seen);
    Some(Lineage {
        width: columns.len() as f64 * PITCH + 4.0,
        height: line + card_height + 30.0,
        line,
        card_width: CARD,
        card_height,
        cards,
        arcs,
        summary,
        legend,
    })
}

fn longest(columns: &[Column]) -> usize {
    let spans = columns.iter().enumerate().flat_map(|(to, column)| {
        let spans = column.saw.iter();
        spans.map(move |(from, _)| to.saturating_sub(*from))
    });
    spans.max().unwrap_or(0)
}

/// Height of an arc over `span` shots: long ones are flat, so that the drawing stays low.
fn arc_height(span: usize) -> f64 {
    (34.0 + 34.0 * (span as f64).sqrt()).min(HIGHEST)
}

fn left_of(column: usize) -> f64 {
    2.0 + column as f64 * PITCH
}

fn card(place: usize, column: &Column, line: f64, aspect: f64) -> Card {
    let left = left_of(place);
    let count = column.kept.len().max(1) as f64;
    let width = ((CARD - PORT) / count - 3.0).clamp(3.0, KEYFRAME);
    let height = width / aspect.clamp(0.6, 3.0);
    let thumbs = column.kept.iter().enumerate().map(|(number, kept)| Thumb {
        left: left + PORT + number as f64 * (width + 3.0),
        top: line - 4.0 - height,
        width,
        height,
        small: kept.small.clone(),
        name: kept.name.clone(),
        seen_by: 0,
    });
    Card {
        left,
        middle: left + CARD / 2.0,
        label: column.label.clone(),
        shot: column.shot.clone(),
        poster: column.poster.clone(),
        keyframes: thumbs.collect(),
        port: (!column.saw.is_empty()).then_some(left + PORT / 2.0),
    }
}

/// A calm curve that leaves and arrives upright.
fn arc((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    let span = ((x2 - x1) / PITCH).round().max(1.0);
    // A cubic reaches three quarters of the height of its control points.
    let top = (y1.min(y2) - arc_height(span as usize) / 0.75 + 24.0).max(2.0 - HIGHEST / 3.0);
    format!("M{x1:.1} {y1:.1}C{x1:.1} {top:.1} {x2:.1} {top:.1} {x2:.1} {y2:.1}")
}

fn summary(columns: &[Column], noun: &str, seen: usize) -> String {
    let shots = columns.iter().filter(|column| column.shot.is_some());
    let kept: usize = columns.iter().map(|column| column.kept.len()).sum();
    let looks: usize = columns.iter().map(|column| column.saw.len()).sum();
    format!(
        "{} shots in a row. Together they hold {kept} {noun} in memory, of which {seen} were seen \
         by a later shot, {looks} times in all. The table below says the same.",
        shots.count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(label: &str, kept: usize, saw: &[(usize, usize)]) -> Column {
        Column {
            label: label.to_owned(),
            shot: Some(label.to_owned()),
            kept: vec![Kept::default(); kept],
            saw: saw.to_vec(),
            ..Column::default()
        }
    }

    #[test]
    fn there_is_one_arc_for_every_look() {
        let columns = [
            column("01_01", 2, &[]),
            column("01_02", 1, &[(0, 0), (0, 1)]),
            column("01_03", 0, &[(0, 0), (1, 0)]),
        ];
        let drawn = draw(&columns, 16.0 / 9.0).unwrap();
        let ends: Vec<_> = drawn.arcs.iter().map(|arc| (arc.from, arc.to)).collect();
        assert_eq!(ends, [(0, 1), (0, 1), (0, 2), (1, 2)]);
        assert_eq!(drawn.cards[0].keyframes[0].seen_by, 2);
        assert_eq!(drawn.cards[0].port, None);
        assert!(drawn.cards[2].port.is_some());
        let wanted =
            "3 shots in a row. Together they hold 3 pictures in memory, of which 3 were seen";
        assert!(drawn.summary.starts_with(wanted), "{}", drawn.summary);
        assert_eq!(drawn.legend, OF_KEYFRAMES);
    }

    /// OneStory keeps no keyframes.
    #[test]
    fn whole_shots_are_not_called_keyframes() {
        let mut columns = [column("01_01", 1, &[]), column("01_02", 1, &[(0, 0)])];
        for column in &mut columns {
            column.kept[0].is_whole = true;
        }
        let drawn = draw(&columns, 1.0).unwrap();
        assert!(!drawn.legend.contains("keyframe"), "{}", drawn.legend);
        let wanted = "2 shots in a row. Together they hold 2 items in memory, of which 1 were seen";
        assert!(drawn.summary.starts_with(wanted), "{}", drawn.summary);
    }

    #[test]
    fn everything_is_inside_the_drawing() {
        let long: Vec<Column> = (0..100)
            .map(|place| column("x", 12, &[(0, 0), (place.max(1) - 1, 3)]))
            .collect();
        for columns in [&long[..], &long[..2]] {
            for aspect in [0.5, 1.0, 1.78, 4.0] {
                let drawn = draw(columns, aspect).unwrap();
                for card in &drawn.cards {
                    assert!(card.left + CARD <= drawn.width);
                    let last = card.keyframes.last().unwrap();
                    assert!(last.left + last.width <= card.left + CARD + 1.0);
                    assert!(last.top > 0.0 && last.top + last.height <= drawn.line);
                }
                for arc in &drawn.arcs {
                    assert!(highest(&arc.path) >= 0.0, "{}", arc.path);
                }
            }
        }
    }

    /// The smallest y of a path of [`arc`], which has both ends and two equal control points.
    fn highest(path: &str) -> f64 {
        let numbers = path.split(['M', 'C', ' ']).filter(|part| !part.is_empty());
        let n: Vec<f64> = numbers.map(|part| part.parse().unwrap()).collect();
        let y = |t: f64| {
            let s = 1.0 - t;
            n[1] * s.powi(3) + 3.0 * n[3] * s * t + n[7] * t.powi(3)
        };
        (0..=20)
            .map(|t| y(f64::from(t) / 20.0))
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn without_memory_there_is_nothing_to_draw() {
        assert_eq!(draw(&[column("01_01", 0, &[])], 1.0), None);
        assert_eq!(draw(&[], 1.0), None);
    }

    #[test]
    fn a_keyframe_that_is_not_there_has_no_arc() {
        let columns = [
            column("01_01", 1, &[]),
            column("01_02", 0, &[(0, 7), (9, 0)]),
        ];
        assert!(draw(&columns, 1.0).unwrap().arcs.is_empty());
    }
}
