//! How long a run takes, before it begins: the time of each stage, and the run in virtual time.

pub mod cost;
pub mod estimate;
mod simulation;

pub use simulation::{
    ChainOfKinds, Farm, Forecast, Planners, SharedGpu, Watch, forecast, forecast_of_briefs,
    lower_bound,
};
