//! Ranks that share a network: which slice is ours, and sums and exchanges of tensors among them.

mod share;

use std::sync::Arc;
use std::time::Duration;

use storyloom_parallel::nccl::{self, DeviceBuffer, NcclGroup};
use storyloom_parallel::topology::{Degrees, GridCell};
use storyloom_parallel::{Dtype, Group, Pending, Reduction};
use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};
use crate::host::{on_host, values, values_mut};

pub use share::TokenShare;

/// One of several equal parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which one.
    pub index: i64,
    /// Of how many.
    pub of: i64,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// First element and length of this part of `length` elements, which it divides.
    pub fn range(self, length: i64) -> (i64, i64) {
        let share = length / self.of;
        (self.index * share, share)
    }
}

/// The ranks that hold the other parts; alone by default.
///
/// Tensors on a GPU travel over NCCL where there is one, and through host memory otherwise.
#[derive(Debug, Clone, Default)]
pub struct Peers(Option<Group>, Option<Arc<NcclGroup>>);

impl Peers {
    /// The members of `group`; nobody if it has one member.
    pub fn new(group: Option<Group>) -> Self {
        Self(group.filter(|group| group.size() > 1), None)
    }

    /// The same with their GPUs, of which this rank's is number `device`. All members call it.
    fn on_gpu(mut self, device: usize, collective_timeout: Duration) -> Self {
        if let Some(group) = &self.0 {
            match NcclGroup::new(group, device, collective_timeout) {
                Ok(nccl) => self.1 = Some(Arc::new(nccl)),
                Err(error) => {
                    tracing::warn!(
                        "collectives of {} go through the host: {error}",
                        group.name()
                    );
                }
            }
        }
        self
    }

    /// The same with the ranks' GPUs, where tensors are on these. All members call it.
    pub fn on_device(self, device: Device, collective_timeout: Duration) -> Self {
        match device {
            Device::Cuda(device) => self.on_gpu(device, collective_timeout),
            _ => self,
        }
    }

    /// NCCL, for a tensor that lies on its device.
    fn nccl(&self, tensor: &Tensor) -> Option<&NcclGroup> {
        let is_there = matches!(tensor.device(), Device::Cuda(_));
        self.1.as_deref().filter(|_| is_there)
    }

    /// Which part is ours.
    pub fn part(&self) -> Part {
        self.0.as_ref().map_or(Part::WHOLE, |group| Part {
            index: group.rank() as i64,
            of: group.size() as i64,
        })
    }

    /// Whether this rank is the first of several.
    pub fn leads(&self) -> bool {
        self.0.as_ref().is_some_and(|group| group.rank() == 0)
    }

    /// Sends a message to all others.
    pub fn broadcast(&self, message: &[u8]) -> Result<()> {
        if let Some(group) = &self.0 {
            for rank in (0..group.size()).filter(|&rank| rank != group.rank()) {
                group.send(rank, message)?;
            }
        }
        Ok(())
    }

    /// The next message of the first rank, however long it takes as long as that lives.
    ///
    /// # Errors
    /// There is no other rank, or it is gone.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let alone = || ModelError::input("group", "there is no other rank");
        Ok(self.0.as_ref().ok_or_else(alone)?.receive(0, None)?)
    }

    /// Sums f32 tensors of all ranks; every rank gets the same bits.
    pub fn sum(&self, tensor: Tensor) -> Result<Tensor> {
        let Some(group) = &self.0 else {
            return Ok(tensor);
        };
        if let Some(nccl) = self.nccl(&tensor) {
            let tensor = dense(&tensor)?;
            // SAFETY: the buffer is that of a dense f32 tensor, which lives to the end of the
            // wait; all that was done with it is on the default stream.
            unsafe { nccl.all_reduce(buffer(&tensor), Reduction::Sum) }?.wait()?;
            return Ok(tensor);
        }
        let mut host = host_copy(&tensor)?;
        group.all_reduce(values_mut(&mut host), Reduction::Sum)?;
        back(host, tensor.device())
    }

    /// Starts the sum of a small f32 tensor, so that the caller can compute meanwhile.
    pub fn start_sum(&self, tensor: Tensor) -> Result<PendingSum> {
        let Some(group) = &self.0 else {
            return Ok(PendingSum {
                pending: None,
                on_gpu: None,
                tensor,
            });
        };
        if let Some(nccl) = self.nccl(&tensor) {
            let tensor = dense(&tensor)?;
            // SAFETY: as in `sum`; the tensor waits in the pending sum and nobody has it.
            let pending = unsafe { nccl.all_reduce(buffer(&tensor), Reduction::Sum) }?;
            return Ok(PendingSum {
                pending: None,
                on_gpu: Some(pending),
                tensor,
            });
        }
        let host = host_copy(&tensor)?;
        Ok(PendingSum {
            pending: Some(group.start_all_reduce(values(&host), Reduction::Sum)?),
            on_gpu: None,
            tensor,
        })
    }

    /// `[ranks, …]` f32: slice `n` goes to rank `n`, and slice `n` of the result comes from it.
    pub fn trade(&self, tensor: &Tensor) -> Result<Tensor> {
        let Some(group) = &self.0 else {
            return Ok(tensor.shallow_clone());
        };
        if let Some(nccl) = self.nccl(tensor) {
            let sent = dense(tensor)?;
            let received = sent.f_empty_like()?;
            // SAFETY: as in `sum`, for two tensors of one size.
            unsafe { nccl.all_to_all(buffer(&sent), buffer(&received)) }?.wait()?;
            return Ok(received);
        }
        let host = host_copy(tensor)?;
        let mut received = host.f_empty_like()?;
        group.all_to_all(values(&host), values_mut(&mut received))?;
        back(received, tensor.device())
    }

    /// Lays f32 tensors of equal size of all ranks together along `axis`.
    pub fn gather(&self, tensor: &Tensor, axis: i64) -> Result<Tensor> {
        let Some(group) = &self.0 else {
            return Ok(tensor.shallow_clone());
        };
        let mut size = vec![group.size() as i64];
        size.extend(tensor.size());
        let all = if let Some(nccl) = self.nccl(tensor) {
            let mine = dense(tensor)?;
            let all = Tensor::f_empty(&size, (Kind::Float, tensor.device()))?;
            // SAFETY: as in `sum`; the second tensor is as long as those of all ranks.
            unsafe { nccl.all_gather(buffer(&mine), buffer(&all)) }?.wait()?;
            all
        } else {
            let host = host_copy(tensor)?;
            let mut all = Tensor::f_empty(&size, (Kind::Float, Device::Cpu))?;
            group.all_gather(values(&host), values_mut(&mut all))?;
            all
        };
        let parts: Vec<Tensor> = (0..size[0])
            .map(|rank| all.f_select(0, rank))
            .collect::<Result<_, _>>()?;
        back(Tensor::f_cat(&parts, axis)?, tensor.device())
    }
}

/// Rows of pictures that lie on several ranks, the upper ones on the first.
impl Peers {
    /// This rank's rows of `axis`, the number that the others have or one more or less.
    pub fn strip(&self, tensor: &Tensor, axis: i64) -> Result<Tensor> {
        let (rows, part) = (axis_length(tensor, axis), self.part());
        let at = |rank: i64| rank * rows / part.of;
        let first = at(part.index);
        Ok(tensor.f_narrow(axis, first, at(part.index + 1) - first)?)
    }

    /// The strips of all ranks laid together along `axis`; they may differ in length.
    pub fn join(&self, strip: &Tensor, axis: i64) -> Result<Tensor> {
        let Some(group) = &self.0 else {
            return Ok(strip.shallow_clone());
        };
        let own = axis_length(strip, axis);
        let mut lengths = vec![0_i64; group.size()];
        group.all_gather(&[own], &mut lengths)?;
        let most = lengths.iter().copied().max().unwrap_or(0);
        let mut size = strip.size();
        let place = axis.rem_euclid(size.len() as i64);
        size[place as usize] = most - own;
        let fill = Tensor::f_zeros(&size, (strip.kind(), strip.device()))?;
        let all = self.gather(&Tensor::f_cat(&[strip, &fill], place)?.f_unsqueeze(0)?, 0)?;
        let part = |(rank, &length): (usize, &i64)| {
            Ok(all.f_select(0, rank as i64)?.f_narrow(place, 0, length)?)
        };
        let parts: Vec<Tensor> = lengths
            .iter()
            .enumerate()
            .map(part)
            .collect::<Result<_>>()?;
        Ok(Tensor::f_cat(&parts, place)?)
    }

    /// `[.., rows, columns]` with one more row at each end: the neighbour's, or zeros outside.
    pub fn with_neighbours(&self, strip: &Tensor) -> Result<Tensor> {
        let part = self.part();
        if part.of == 1 {
            return Ok(strip.shallow_clone());
        }
        let rows = axis_length(strip, -2);
        let ends = [strip.f_narrow(-2, 0, 1)?, strip.f_narrow(-2, rows - 1, 1)?];
        let ends = Tensor::f_stack(&ends, 0)?;
        let all = self.gather(&ends.f_unsqueeze(0)?, 0)?;
        let end = |rank: i64, which: i64| match (0..part.of).contains(&rank) {
            true => Ok(all.f_select(0, rank)?.f_select(0, which)?),
            false => ends.f_select(0, 0)?.f_zeros_like(),
        };
        let above = end(part.index - 1, 1)?;
        let below = end(part.index + 1, 0)?;
        Ok(Tensor::f_cat(&[above, strip.shallow_clone(), below], -2)?)
    }
}

fn axis_length(tensor: &Tensor, axis: i64) -> i64 {
    let size = tensor.size();
    size[axis.rem_euclid(size.len() as i64) as usize]
}

/// A sum under way.
#[must_use = "the sum is not there before `wait`"]
pub struct PendingSum {
    pending: Option<Pending>,
    on_gpu: Option<nccl::Pending>,
    tensor: Tensor,
}

impl PendingSum {
    /// The sum, in a tensor of the size of the one given.
    pub fn wait(self) -> Result<Tensor> {
        if let Some(pending) = self.on_gpu {
            pending.wait()?;
            return Ok(self.tensor);
        }
        let Some(pending) = self.pending else {
            return Ok(self.tensor);
        };
        let size = self.tensor.size();
        let mut sum = Tensor::f_empty(&size, (Kind::Float, Device::Cpu))?;
        pending.wait(values_mut(&mut sum))?;
        back(sum, self.tensor.device())
    }
}

/// A dense f32 tensor of its own on the same device.
fn dense(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_to_kind(Kind::Float)?.f_contiguous()?)
}

/// The memory of a dense f32 tensor on a GPU.
fn buffer(tensor: &Tensor) -> DeviceBuffer {
    DeviceBuffer {
        pointer: tensor.data_ptr() as u64,
        count: tensor.numel(),
        dtype: Dtype::F32,
    }
}

/// A dense copy in host memory, or the tensor itself if it is one.
fn host_copy(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let tensor = tensor.f_contiguous()?;
    debug_assert!(on_host(&tensor));
    Ok(tensor)
}

fn back(tensor: Tensor, device: Device) -> Result<Tensor> {
    Ok(tensor.f_to_device(device)?)
}

/// The ranks that share one transformer, seen from one of them.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// Hold the other slices of each layer.
    pub tensor: Peers,
    /// Hold the other tokens.
    pub sequence: Peers,
}

impl Shard {
    /// The same with the ranks' GPUs, where tensors are on these. All ranks of the denoiser call it.
    pub fn on_device(self, device: Device, collective_timeout: Duration) -> Self {
        Self {
            tensor: self.tensor.on_device(device, collective_timeout),
            sequence: self.sequence.on_device(device, collective_timeout),
        }
    }

    /// The shard at `cell`, whose groups are made of `denoiser`, the ranks of a denoiser.
    ///
    /// All of them call it with the same degrees.
    pub fn join(denoiser: &Group, degrees: Degrees) -> Result<(Self, GridCell)> {
        let cell = degrees.cell(denoiser.rank());
        let mut shard = Self::default();
        for index in 0..degrees.ranks() {
            let other = degrees.cell(index);
            // The first member of each group makes it, the same on all ranks.
            if other.tensor == 0
                && let Some(group) = denoiser.subgroup(&degrees.tensor_group(other), "tensor")?
            {
                shard.tensor = Peers::new(Some(group));
            }
            if other.sequence == 0
                && let Some(group) =
                    denoiser.subgroup(&degrees.sequence_group(other), "sequence")?
            {
                shard.sequence = Peers::new(Some(group));
            }
        }
        Ok((shard, cell))
    }
}
