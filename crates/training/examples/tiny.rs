//! Trains one stage of the tiny model: `tiny FOLDER STAGE [MINUTES]`.
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use storyloom_models::tch::{Device, set_num_threads};
use storyloom_training::{Preset, Run, StageName};

fn main() {
    tracing_subscriber::fmt().with_ansi(false).init();
    let args: Vec<String> = std::env::args().collect();
    set_num_threads(1);
    let preset = if std::env::var("PRESET").is_ok_and(|p| p == "test") { Preset::test() } else { Preset::tiny() };
    let run = Run::new(args[1].as_ref(), preset, 0, Device::Cpu).unwrap();
    let stage = StageName::ALL.into_iter().find(|stage| stage.name() == args[2]).unwrap();
    let time = args.get(3).map(|minutes| Duration::from_secs(60 * minutes.parse::<u64>().unwrap()));
    println!("{:?}", run.train(stage, time, &AtomicBool::new(false)));
}
