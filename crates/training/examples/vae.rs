use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use storyloom_models::tch::Device;
use storyloom_models::vae::VaeConfig;
use storyloom_training::autoencoder::*;
use storyloom_training::clips::*;
use storyloom_training::optimizer::*;
use storyloom_training::stage::*;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let base: i64 = args[2].parse().unwrap();
    let batch: usize = args[3].parse().unwrap();
    let steps: u64 = args[4].parse().unwrap();
    let z = 8;
    let config = VaeConfig {
        base_dim: base,
        z_dim: z,
        is_residual: true,
        patch_size: Some(2),
        in_channels: 12,
        out_channels: 12,
        temperal_downsample: vec![true, true],
        dim_mult: args[5].split(',').map(|x| x.parse().unwrap()).collect(),
        latents_mean: vec![0.0; 8],
        latents_std: vec![1.0; 8],
        ..VaeConfig::default()
    };
    storyloom_models::tch::set_num_threads(1);
    let source = ClipSource {
        size: [160, 96],
        frames: 9,
    };
    let settings = VaeSettings {
        parts: 2,
        crops: batch,
        crop: [96, 80],
        frames: 5,
        pictures: 0.3,
        divergence: 1e-4,
        edges: 0.5,
    };
    let files = StageFiles::new(std::path::Path::new(&args[1]), "vae").unwrap();
    let mut stage = VaeStage::new(
        config,
        settings,
        source,
        0,
        Device::Cpu,
        files.params().unwrap(),
    )
    .unwrap();
    println!("{} params", stage.params().count());
    let adam = AdamSettings {
        rate: args[6].parse().unwrap(),
        warm_up: 50,
        steps: 20000,
        decay: 0.0,
        clip: 1.0,
        average: 0.995,
    };
    let rhythm = Rhythm {
        steps,
        log_every: 10,
        save_every: Duration::from_secs(120),
        preview_every: Duration::from_secs(300),
        time: None,
    };
    let t = Instant::now();
    train(&mut stage, &files, adam, rhythm, &AtomicBool::new(false)).unwrap();
    println!(
        "{:?}; cpu {:?}",
        t.elapsed(),
        std::fs::read_to_string("/proc/self/stat")
            .unwrap()
            .split(' ')
            .skip(13)
            .take(2)
            .collect::<Vec<_>>()
    );
}
