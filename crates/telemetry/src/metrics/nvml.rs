//! What NVML tells of the GPU of a rank. NVML comes with the driver and is opened when the program
//! runs; where it is absent, or says nothing of a thing, there is no figure of it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

use super::machine::GpuReport;

/// The library, opened once.
fn library() -> Option<&'static Nvml> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    let opened = NVML.get_or_init(|| {
        Nvml::init()
            .inspect_err(|error| tracing::debug!(%error, "no NVML"))
            .ok()
    });
    opened.as_ref()
}

/// The GPU of this rank, as NVML sees it.
pub struct Gpu {
    device: Device<'static>,
    uuid: String,
    host: String,
    /// Joules when the rank started; the GPU counts since its driver was loaded.
    first_joules: Option<f64>,
    errors: Option<EventSet<'static>>,
    counts: BTreeMap<u64, u64>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}

impl Gpu {
    /// The GPU with this UUID on the machine `host`; `None` where NVML does not know it.
    pub fn open(uuid: &str, host: &str) -> Option<Self> {
        let nvml = library()?;
        let device = nvml
            .device_by_uuid(uuid)
            .inspect_err(|error| tracing::debug!(%error, uuid, "NVML does not know this GPU"))
            .ok()?;
        let errors = nvml.create_event_set().ok().and_then(|set| {
            let errors = EventTypes::CRITICAL_XID_ERROR;
            device.register_events(errors, set).ok()
        });
        let mut gpu = Self {
            device,
            uuid: uuid.to_owned(),
            host: host.to_owned(),
            first_joules: None,
            errors,
            counts: BTreeMap::new(),
        };
        gpu.first_joules = gpu.joules();
        Some(gpu)
    }

    fn joules(&self) -> Option<f64> {
        let millijoules = self.device.total_energy_consumption().ok()?;
        Some(millijoules as f64 / 1e3)
    }

    /// Counts the errors that have come since the last look.
    fn count_errors(&mut self) {
        /// More than come in a few seconds, so that a GPU that does nothing else ends the loop.
        const MOST: usize = 1000;
        let Some(errors) = &self.errors else { return };
        for _ in 0..MOST {
            match errors.wait(0) {
                Ok(event) => {
                    let number = match event.event_data {
                        Some(XidError::Value(number)) => number,
                        Some(XidError::Unknown) | None => 0,
                    };
                    *self.counts.entry(number).or_default() += 1;
                }
                Err(NvmlError::Timeout) => return,
                Err(error) => {
                    tracing::debug!(%error, "NVML tells no errors");
                    return;
                }
            }
        }
    }

    /// How it is now.
    pub fn report(&mut self) -> GpuReport {
        self.count_errors();
        let memory = self.device.memory_info().ok();
        let joules = self.joules().zip(self.first_joules);
        let temperature = self.device.temperature(TemperatureSensor::Gpu).ok();
        GpuReport {
            host: self.host.clone(),
            uuid: self.uuid.clone(),
            energy_joules: joules.map(|(now, first)| (now - first).max(0.0)),
            memory_used_bytes: memory.as_ref().map(|memory| memory.used),
            memory_bytes: memory.as_ref().map(|memory| memory.total),
            temperature_celsius: temperature.map(f64::from),
            xid_errors: self
                .counts
                .iter()
                .map(|(&xid, &count)| (xid, count))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On machines with a GPU it is asked, on others nothing is said of it.
    #[test]
    fn a_gpu_is_there_or_it_is_not() {
        assert!(Gpu::open("GPU-00000000-0000-0000-0000-000000000000", "here").is_none());
        let Some(nvml) = library() else {
            eprintln!("no NVML on this machine: only its absence is tested");
            return;
        };
        for number in 0..nvml.device_count().unwrap() {
            let uuid = nvml.device_by_index(number).unwrap().uuid().unwrap();
            let report = Gpu::open(&uuid, "here").unwrap().report();
            eprintln!("{report:?}");
            assert_eq!((report.uuid, report.host.as_str()), (uuid, "here"));
            assert!(report.memory_used_bytes.unwrap() <= report.memory_bytes.unwrap());
            assert!((1.0..120.0).contains(&report.temperature_celsius.unwrap()));
            assert!(report.energy_joules.unwrap() >= 0.0);
        }
    }
}
