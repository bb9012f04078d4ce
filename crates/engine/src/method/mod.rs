//! The methods: how each makes shots with its networks, stage by stage.

pub mod fingerprint;
pub mod onestory;
pub mod storymem;
pub mod wan;
