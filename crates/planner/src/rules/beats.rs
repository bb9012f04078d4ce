//! What the shots of a film are for, and in which order.

/// What a shot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// The place, with the product in it from the first moment on.
    Open,
    /// Somebody takes the product up.
    Arrive,
    /// It is used, and a selling point shows.
    Benefit,
    /// It is seen from very near.
    Detail,
    /// Somebody is glad of it.
    Reaction,
    /// It alone, at the end.
    Payoff,
}

/// The order of the shots. Apart from the first two and the last, selling points and close looks
/// take turns, with somebody's reaction before the end of longer films.
pub(super) fn beats(count: usize) -> Vec<Beat> {
    let mut beats = match count {
        0 | 1 => Vec::new(),
        2 => vec![Beat::Arrive],
        _ => vec![Beat::Open, Beat::Arrive],
    };
    let middle = count.saturating_sub(beats.len() + 1);
    for position in 0..middle {
        let last = position + 1 == middle;
        beats.push(match position % 3 {
            _ if last && middle >= 3 => Beat::Reaction,
            1 => Beat::Detail,
            _ => Beat::Benefit,
        });
    }
    beats.push(Beat::Payoff);
    beats
}
