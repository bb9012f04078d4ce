//! Trains the reader: `cargo run --release -p storyloom-training --example reader -- DIR STEPS MINUTES`.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use storyloom_training::optimizer::AdamSettings;
use storyloom_training::reader::{ReaderStage, export};
use storyloom_training::stage::{Rhythm, StageFiles, train};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, steps, minutes] = arguments.as_slice() else {
        return Err("give a folder, steps and minutes".into());
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let files = StageFiles::new(Path::new(folder), "reader")?;
    let steps: u64 = steps.parse()?;
    let mut stage = ReaderStage::new(7, 2, 12, files.params()?)?;
    let settings = AdamSettings {
        rate: 2e-3,
        warm_up: 50,
        steps,
        decay: 0.02,
        clip: 1.0,
        average: 0.995,
    };
    let rhythm = Rhythm {
        steps,
        log_every: 100,
        save_every: Duration::from_secs(120),
        preview_every: Duration::from_secs(1200),
        time: Some(Duration::from_secs(60 * minutes.parse::<u64>()?)),
    };
    train(
        &mut stage,
        &files,
        settings,
        rhythm,
        &AtomicBool::new(false),
    )?;
    if let Some((average, step)) = files.average()? {
        export(&average, &Path::new(folder).join("reader.safetensors"))?;
        println!("{step} steps");
    }
    Ok(())
}
