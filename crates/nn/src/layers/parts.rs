//! Where the time of a forward goes, for benchmarks.

use std::cell::RefCell;
use std::time::Instant;

use serde::Serialize;
use tch::Device;

use crate::cuda::synchronize;
use crate::error::Result;

/// A part of the work of a transformer block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Products that make queries, keys and values.
    Inputs,
    /// Attention of the tokens to each other.
    SelfAttention,
    /// Attention of the tokens to the text.
    CrossAttention,
    /// Products after the attentions.
    Outputs,
    /// Products of the feed-forward layer.
    FeedForward,
    /// Everything between the products: norms, rotation, activation, gates, copies.
    Elementwise,
}

/// Seconds in each part.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PartSeconds {
    /// [`Part::Inputs`].
    pub input_products: f64,
    /// [`Part::SelfAttention`].
    pub self_attention: f64,
    /// [`Part::CrossAttention`].
    pub cross_attention: f64,
    /// [`Part::Outputs`].
    pub output_products: f64,
    /// [`Part::FeedForward`].
    pub feed_forward_products: f64,
    /// [`Part::Elementwise`].
    pub elementwise: f64,
    /// What is before and after the blocks.
    pub outside: f64,
    /// All together. Longer than without parts, since the device is waited for between them.
    pub total: f64,
}

impl PartSeconds {
    fn of(&mut self, part: Part) -> &mut f64 {
        match part {
            Part::Inputs => &mut self.input_products,
            Part::SelfAttention => &mut self.self_attention,
            Part::CrossAttention => &mut self.cross_attention,
            Part::Outputs => &mut self.output_products,
            Part::FeedForward => &mut self.feed_forward_products,
            Part::Elementwise => &mut self.elementwise,
        }
    }

    fn in_blocks(&self) -> f64 {
        self.input_products
            + self.self_attention
            + self.cross_attention
            + self.output_products
            + self.feed_forward_products
            + self.elementwise
    }
}

struct Meter {
    device: Device,
    seconds: PartSeconds,
}

thread_local! {
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

/// Does `work`, and counts its time if somebody measures on this thread. Parts do not nest.
pub fn timed<T>(part: Part, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(device) = METER.with_borrow(|meter| meter.as_ref().map(|meter| meter.device)) else {
        return work();
    };
    let (result, seconds) = stopwatch(device, work);
    METER.with_borrow_mut(|meter| {
        if let Some(meter) = meter {
            *meter.seconds.of(part) += seconds;
        }
    });
    result
}

/// Does `work` on `device` and tells how long its parts took.
pub fn measure_parts<T>(
    device: Device,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, PartSeconds)> {
    let seconds = PartSeconds::default();
    METER.set(Some(Meter { device, seconds }));
    let (result, total) = stopwatch(device, work);
    let meter = METER.take();
    let mut seconds = meter.map(|meter| meter.seconds).unwrap_or_default();
    seconds.total = total;
    seconds.outside = total - seconds.in_blocks();
    Ok((result?, seconds))
}

fn stopwatch<T>(device: Device, work: impl FnOnce() -> T) -> (T, f64) {
    synchronize(device);
    let start = Instant::now();
    let result = work();
    synchronize(device);
    (result, start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn parts_are_counted_where_somebody_measures() {
        let nap = |milliseconds| std::thread::sleep(Duration::from_millis(milliseconds));
        let work = || {
            for part in [Part::Inputs, Part::Elementwise, Part::Inputs] {
                timed(part, || {
                    nap(4);
                    Ok(())
                })?;
            }
            nap(2);
            Ok(7)
        };
        assert_eq!(work().unwrap(), 7);
        let (seven, seconds) = measure_parts(Device::Cpu, work).unwrap();
        assert_eq!(seven, 7);
        assert!(seconds.input_products >= 0.008, "{seconds:?}");
        assert!(seconds.elementwise >= 0.004, "{seconds:?}");
        assert!(seconds.outside >= 0.002, "{seconds:?}");
        assert_eq!(seconds.self_attention, 0.0);
        assert!((seconds.in_blocks() + seconds.outside - seconds.total).abs() < 1e-9);
        // The meter is gone.
        work().unwrap();
        assert!(METER.take().is_none());
    }
}
