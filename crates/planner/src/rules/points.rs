//! Which shot shows which selling points: none is lost silently.

use super::beats::Beat;

/// The shots that show selling points, those first that are made for it.
const CARRIERS: [Beat; 6] = [
    Beat::Benefit,
    Beat::Detail,
    Beat::Reaction,
    Beat::Arrive,
    Beat::Payoff,
    Beat::Open,
];

/// The points of each shot, as positions in the list of `count` points. Every point has a shot; shots
/// that are there for points all have one.
pub(super) fn share_out(count: usize, beats: &[Beat]) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); beats.len()];
    let at = |wanted: Beat| {
        let found = beats.iter().enumerate();
        found
            .filter(move |(_, beat)| **beat == wanted)
            .map(|(position, _)| position)
    };
    let benefits: Vec<usize> = at(Beat::Benefit).collect();
    if count == 0 {
        return shares;
    }
    if count <= benefits.len() {
        for (turn, position) in benefits.into_iter().enumerate() {
            shares[position].push(turn % count);
        }
        return shares;
    }
    let mut carriers: Vec<usize> = CARRIERS
        .iter()
        .flat_map(|beat| at(*beat))
        .take(count)
        .collect();
    carriers.sort_unstable();
    for point in 0..count {
        if let Some(position) = carriers.get(point * carriers.len() / count) {
            shares[*position].push(point);
        }
    }
    shares
}

/// The sentence that shows some points.
pub(super) fn sentence(points: &[&str]) -> String {
    let plain: Vec<_> = points
        .iter()
        .map(|point| point.trim_end_matches('.'))
        .collect();
    match plain.len() {
        0 => String::new(),
        1 => format!("The shot shows one quality: {}.", plain[0]),
        _ => format!("The shot shows these qualities: {}.", plain.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::beats::beats;
    use super::*;

    #[test]
    fn every_point_has_a_shot() {
        for shots in 1..=20 {
            for count in 0..=16 {
                let shares = share_out(count, &beats(shots));
                assert_eq!(shares.len(), shots);
                for point in 0..count {
                    assert!(
                        shares.iter().any(|share| share.contains(&point)),
                        "{shots} shots, {count} points"
                    );
                }
                let most = shares.iter().map(Vec::len).max().unwrap_or(0);
                assert!(
                    most <= count.div_ceil(shots.min(count.max(1))),
                    "they are spread: {shots}, {count}, {most}"
                );
            }
        }
    }

    #[test]
    fn points_read_as_qualities_whatever_their_form() {
        assert_eq!(sentence(&["hot."]), "The shot shows one quality: hot.");
        assert_eq!(
            sentence(&["hot", "vegan"]),
            "The shot shows these qualities: hot; vegan."
        );
        assert_eq!(sentence(&[]), "");
    }
}
