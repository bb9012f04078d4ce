//! Figures of the disks and of all ranks of a replica.

use std::path::Path;

use prometheus::{CounterVec, GaugeVec};
use serde::{Deserialize, Serialize};

use super::catalogue as c;
use super::families::{Families, Result};
use super::labels::{DiskRole, LabelValue};
use super::run::{raise, set};

/// What a rank of a replica says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// Rank in the world.
    pub rank: usize,
    /// Collective operations since it started.
    pub collectives: u64,
    /// Seconds that it waited in them for the others.
    pub collective_wait_seconds: f64,
    /// Its GPU, if NVML tells of one.
    pub gpu: Option<GpuReport>,
}

/// What NVML says of a GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuReport {
    /// Name of its machine.
    pub host: String,
    /// Its UUID.
    pub uuid: String,
    /// Energy since the rank started, in joules, if the GPU counts it.
    pub energy_joules: Option<f64>,
    /// Memory in use by anybody, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// All memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// In degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// XID errors since the rank started: number of the error, and how often.
    pub xid_errors: Vec<(u64, u64)>,
}

/// A disk that the run needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Disk {
    pub(super) free_bytes: f64,
    pub(super) size_bytes: f64,
}

impl Disk {
    /// The disk that `path` is on, if the system tells.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        let block = found.f_frsize as f64;
        Some(Self {
            free_bytes: found.f_bavail as f64 * block,
            size_bytes: found.f_blocks as f64 * block,
        })
    }
}

/// The metrics of machines.
#[derive(Debug)]
pub(super) struct MachineFigures {
    collectives: CounterVec,
    collective_wait: CounterVec,
    bank_bytes: GaugeVec,
    disk_free: GaugeVec,
    disk_size: GaugeVec,
    gpu: GaugeVec,
    energy: CounterVec,
    memory_used: GaugeVec,
    memory: GaugeVec,
    temperature: GaugeVec,
    xid: CounterVec,
}

impl MachineFigures {
    pub(super) fn new(families: &mut Families) -> Result<Self> {
        Ok(Self {
            collectives: families.counter(&c::COLLECTIVES)?,
            collective_wait: families.counter(&c::COLLECTIVE_WAIT)?,
            bank_bytes: families.gauge(&c::BANK_BYTES)?,
            disk_free: families.gauge(&c::DISK_FREE)?,
            disk_size: families.gauge(&c::DISK_SIZE)?,
            gpu: families.gauge(&c::GPU_INFO)?,
            energy: families.counter(&c::GPU_ENERGY)?,
            memory_used: families.gauge(&c::GPU_MEMORY_USED)?,
            memory: families.gauge(&c::GPU_MEMORY)?,
            temperature: families.gauge(&c::GPU_TEMPERATURE)?,
            xid: families.counter(&c::GPU_XID)?,
        })
    }

    pub(super) fn set_disk(&self, place: DiskRole, disk: Disk) -> Result<()> {
        set(&self.disk_free, &[place.text()], disk.free_bytes)?;
        set(&self.disk_size, &[place.text()], disk.size_bytes)
    }

    pub(super) fn set_bank(&self, bytes: u64) -> Result<()> {
        set(&self.bank_bytes, &[], bytes as f64)
    }

    pub(super) fn set_rank(&self, report: &RankReport) -> Result<()> {
        let rank = report.rank.to_string();
        let rank = rank.as_str();
        raise(&self.collectives, &[rank], report.collectives as f64)?;
        let wait = report.collective_wait_seconds;
        raise(&self.collective_wait, &[rank], wait)?;
        let Some(gpu) = &report.gpu else {
            return Ok(());
        };
        set(&self.gpu, &[rank, &gpu.host, &gpu.uuid], 1.0)?;
        if let Some(joules) = gpu.energy_joules {
            raise(&self.energy, &[rank], joules)?;
        }
        for (family, value) in [
            (&self.memory_used, gpu.memory_used_bytes),
            (&self.memory, gpu.memory_bytes),
        ] {
            if let Some(bytes) = value {
                set(family, &[rank], bytes as f64)?;
            }
        }
        if let Some(celsius) = gpu.temperature_celsius {
            set(&self.temperature, &[rank], celsius)?;
        }
        for (number, count) in &gpu.xid_errors {
            raise(&self.xid, &[rank, &number.to_string()], *count as f64)?;
        }
        Ok(())
    }
}
