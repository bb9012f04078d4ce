//! How fast a group is, beside the bare call of the library underneath.

use std::time::Instant;

use crate::backend::Result;
use crate::element::Reduction;
use crate::world::World;

/// One collective at one size.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was called.
    pub operation: &'static str,
    /// Bytes of each rank's buffer.
    pub bytes: usize,
    /// Median seconds of a call.
    pub seconds: f64,
    /// Median seconds of the bare library call, in turns with ours; MPI's all-reduce only.
    pub bare_seconds: Option<f64>,
}

/// Elements (f32) per rank, from one kibibyte to 64 mebibytes.
const LENGTHS: [usize; 9] = [
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
];

/// Times the collectives of the world; all ranks call it.
///
/// # Errors
/// A rank is missing.
pub fn collectives(world: &World) -> Result<Vec<Figure>> {
    let group = world.group();
    let size = group.size();
    let mut figures = Vec::new();
    let mut barrier = Vec::new();
    for _ in 0..200 {
        barrier.push(time(|| group.barrier())?);
    }
    figures.push(Figure {
        operation: "barrier",
        bytes: 0,
        seconds: median(barrier),
        bare_seconds: None,
    });
    for length in LENGTHS {
        let repeats = (1 << 22 >> length.ilog2()).clamp(10, 200);
        let length = length / size * size;
        let (mut data, mut other) = (vec![1.0_f32; length], vec![0.0_f32; length]);
        let mut all = vec![0.0_f32; length * size];
        let mut times: [Vec<f64>; 6] = Default::default();
        for round in 0..repeats {
            // From a common start, since the first to come would pay for the last; and in turns,
            // since the second finds the buffer in the cache.
            for turn in [round % 2, 1 - round % 2] {
                group.barrier()?;
                if turn == 0 {
                    times[0].push(time(|| group.all_reduce(&mut data, Reduction::Max))?);
                } else if let Some(seconds) = bare_all_reduce(world, &mut data)? {
                    times[1].push(seconds);
                }
            }
            group.barrier()?;
            times[2].push(time(|| group.all_gather(&data, &mut all))?);
            group.barrier()?;
            times[3].push(time(|| group.all_to_all(&data, &mut other))?);
            group.barrier()?;
            times[4].push(time(|| group.broadcast(&mut data, 0))?);
            group.barrier()?;
            let mine = &mut other[..length / size];
            times[5].push(time(|| group.reduce_scatter(&data, mine, Reduction::Max))?);
        }
        let [
            all_reduce,
            bare,
            all_gather,
            all_to_all,
            broadcast,
            reduce_scatter,
        ] = times;
        let bare = (!bare.is_empty()).then(|| median(bare));
        for (operation, times, bare_seconds) in [
            ("all-reduce", all_reduce, bare),
            ("all-gather", all_gather, None),
            ("all-to-all", all_to_all, None),
            ("broadcast", broadcast, None),
            ("reduce-scatter", reduce_scatter, None),
        ] {
            figures.push(Figure {
                operation,
                bytes: length * size_of::<f32>(),
                seconds: median(times),
                bare_seconds,
            });
        }
    }
    Ok(figures)
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(feature = "mpi")]
fn bare_all_reduce(world: &World, data: &mut [f32]) -> Result<Option<f64>> {
    use crate::discovery::Source;
    if world.found().source != Source::Mpi {
        return Ok(None);
    }
    time(|| crate::mpi_backend::bare_all_reduce(data)).map(Some)
}

#[cfg(not(feature = "mpi"))]
fn bare_all_reduce(_world: &World, _data: &mut [f32]) -> Result<Option<f64>> {
    Ok(None)
}
