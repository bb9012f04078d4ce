//! What the configs of networks are checked for alike.

/// Refuses the first of `sizes`, keys and their values, that is below 1.
pub(crate) fn at_least_one(sizes: &[(&str, i64)]) -> Result<(), String> {
    match sizes.iter().find(|(_, value)| *value < 1) {
        Some((key, value)) => Err(format!("{key} = {value} must be at least 1")),
        None => Ok(()),
    }
}

/// Refuses attention heads, at least one, that do not divide the `hidden_size`.
pub(crate) fn heads_divide(hidden_size: i64, heads: i64) -> Result<(), String> {
    match hidden_size % heads {
        0 => Ok(()),
        _ => Err(format!(
            "hidden_size = {hidden_size} is not divided by {heads} heads"
        )),
    }
}
