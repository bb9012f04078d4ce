//! Collectives on GPU memory over NCCL.
//!
//! A [`NcclGroup`] works on plain device pointers and knows no tensors. Its operations go to a
//! stream of its own, after all that the caller's stream was given before; the caller's stream is
//! the default stream, which libtorch uses. An operation returns at once with a [`Pending`], whose
//! [`wait`](Pending::wait) lets the caller's stream go on when the operation is over. In between
//! the caller can compute something else. The host waits for nothing.
//!
//! Nothing on the device says that another rank does not come: a kernel waits there for ever. A
//! thread of the group therefore looks at the library's errors and at the age of the oldest
//! operation. On a fault it aborts what waits on the device and asks the other ranks
//! over the host where they stand; the error names those that are missing, and every later call
//! returns it. After a wait for the device the results are only good if [`NcclGroup::check`] is.
//!
//! Sums of bf16 are rounded after every addition, unlike those of a [`Group`].

mod device;
mod library;
mod queue;
mod verdict;
mod watch;

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cudarc::nccl::sys::{cudaStream_t, ncclUniqueId};

use crate::backend::{Result, Roster};
use crate::call::{Call, Kind};
use crate::element::{Dtype, Reduction};
use crate::error::CommError;
use crate::group::Group;

use device::{Device, Event, Memory, Stream, default_stream};
use library::{Code, Comm, Nccl, config, datatype, operation};
use queue::Operation;
use verdict::Fault;
use watch::{Post, Shared, lock, watch};

/// Whether there is a driver, a GPU and NCCL. Never panics.
///
/// NCCL is found by the loader of the system, or where [`use_library`] said; once libtorch for
/// CUDA is loaded, it is the one that libtorch brought.
///
/// # Errors
/// What is missing.
pub fn is_available() -> Result<(), String> {
    let mut missing = Vec::new();
    match device::count() {
        Ok(0) => missing.push("the driver shows no GPU".to_owned()),
        Ok(_) => {}
        Err(reason) => missing.push(reason),
    }
    if let Err(reason) = Nccl::get() {
        missing.push(reason);
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(missing.join("; "))
    }
}

/// Takes NCCL from the file `path`, for instance `nvidia/nccl/lib/libnccl.so.2` of its Python
/// wheel. To be called before the first group is made; the library stays loaded until the program
/// ends.
///
/// # Errors
/// The file cannot be loaded or is no NCCL, or another NCCL comes first: one that libtorch has
/// loaded, or one that is in use.
pub fn use_library(path: &Path) -> Result<()> {
    Nccl::take(path).map_err(CommError::Setup)
}

/// NCCL's version, as in `2.28.9`.
///
/// # Errors
/// NCCL cannot be loaded.
pub fn version() -> Result<String> {
    let version = Nccl::get().and_then(Nccl::version);
    version.map(dotted).map_err(CommError::Setup)
}

/// How many GPUs the driver shows; 0 without one.
pub fn devices() -> usize {
    device::count().unwrap_or(0)
}

fn dotted(version: i32) -> String {
    let (major, rest) = (version / 10_000, version % 10_000);
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

/// Elements on a device, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceBuffer {
    /// Where they begin, aligned as `dtype` needs it.
    pub pointer: u64,
    /// How many they are.
    pub count: usize,
    /// Their type.
    pub dtype: Dtype,
}

impl DeviceBuffer {
    fn address(self) -> *mut c_void {
        self.pointer as *mut c_void
    }

    /// Where the chunk `index` of chunks of `count` elements begins.
    fn chunk(self, index: usize, count: usize) -> *mut c_void {
        self.address()
            .wrapping_byte_add(index * count * self.dtype.size())
    }
}

/// One rank's end of a process group on GPUs, one for each rank.
///
/// All ranks call the same operations in the same order; buffers have the same type and length
/// everywhere. Calls of several threads are made one after the other, so that only one thread
/// should make them. To be dropped before the world of its host group ends, by all ranks at about
/// the same time.
#[derive(Debug)]
pub struct NcclGroup {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
    /// Held while an operation goes to the stream.
    order: Mutex<()>,
    /// How many collectives there were.
    collectives: AtomicU64,
    /// What barriers add up.
    nothing: Option<Memory>,
}

/// What a rank needs before it can meet the others.
struct Prepared {
    nccl: &'static Nccl,
    version: i32,
    device: Arc<Device>,
    stream: Stream,
    nothing: Memory,
    /// Of rank 0.
    id: ncclUniqueId,
}

impl Prepared {
    fn new(rank: usize, device: usize) -> Result<Self, String> {
        is_available()?;
        let nccl = Nccl::get()?;
        let device = Device::open(device)?;
        let _entered = device.enter()?;
        Ok(Self {
            nccl,
            version: nccl.version()?,
            stream: Stream::new(&device)?,
            nothing: Memory::zeros(&device, size_of::<i64>())?,
            id: if rank == 0 {
                nccl.unique_id()?
            } else {
                ncclUniqueId { internal: [0; 128] }
            },
            device,
        })
    }
}

impl NcclGroup {
    /// The group of the ranks of `host`, each with a device of its own. All ranks of `host` call
    /// it. An operation that waits for longer than `collective_timeout` for other ranks fails; so does the
    /// set-up.
    ///
    /// # Errors
    /// A rank has no GPU or no NCCL, or another NCCL than the others, or did not come.
    pub fn new(host: &Group, device: usize, collective_timeout: Duration) -> Result<Self> {
        let (watch, prepared) = Self::meet(host, device)?;
        Self::start(watch, prepared, collective_timeout)
    }

    /// All that is done before NCCL itself connects the ranks.
    fn meet(host: &Group, device: usize) -> Result<(Group, Prepared)> {
        let rank = host.rank();
        let all: Vec<usize> = (0..host.size()).collect();
        let watch = host
            .subgroup(&all, &format!("{} on GPUs", host.name()))?
            .ok_or_else(|| CommError::Setup("a group without its own rank".to_owned()))?;
        // Nobody leaves before all know who is not able to.
        let mut prepared = Prepared::new(rank, device);
        let own = prepared.as_ref().map_or(0, |prepared| prepared.version);
        let mut versions = vec![0; host.size()];
        watch.all_gather(&[i64::from(own)], &mut versions)?;
        if let Some(reason) = objection(&versions, host.members()) {
            let own = prepared.as_ref().err().cloned();
            return Err(CommError::Setup(own.unwrap_or(reason)));
        }
        let mut id = [0; 16];
        if let Ok(prepared) = &prepared {
            id = bytemuck::cast(prepared.id.internal);
        }
        watch.broadcast::<i64>(&mut id, 0)?;
        if let Ok(prepared) = &mut prepared {
            prepared.id.internal = bytemuck::cast(id);
        }
        Ok((watch, prepared.map_err(CommError::Setup)?))
    }

    /// Connects the ranks.
    fn start(watch_over: Group, prepared: Prepared, collective_timeout: Duration) -> Result<Self> {
        let Prepared {
            nccl,
            device,
            stream,
            nothing,
            id,
            ..
        } = prepared;
        let roster = Roster {
            group: watch_over.name().to_owned(),
            members: watch_over.members().to_vec(),
        };
        let (rank, size) = (watch_over.rank(), number(watch_over.size()));
        let _entered = device.enter().map_err(CommError::Setup)?;
        let (mut comm, mut config) = (std::ptr::null_mut(), config());
        // SAFETY: places for the answer and the configuration, which is made as NCCL's header
        // does; the device has been entered.
        let code =
            unsafe { (nccl.init_rank_config)(&mut comm, size, id, number(rank), &mut config) };
        let begun = nccl.check("ncclCommInitRankConfig", code);
        let comm = (!comm.is_null()).then_some(Comm(comm));
        let device = Arc::clone(&device);
        let shared = Shared::new(nccl, roster, rank, collective_timeout, comm, stream, device);
        let mut group = Self {
            shared: Arc::new(shared),
            watcher: None,
            order: Mutex::default(),
            collectives: AtomicU64::new(0),
            nothing: Some(nothing),
        };
        // The others are told by the watcher too.
        if let Err(reason) = begun {
            group.shared.raise(Fault::Said(reason));
        }
        let (shared, post) = (Arc::clone(&group.shared), Post::new(watch_over));
        let watcher = std::thread::Builder::new().name("nccl watch".to_owned());
        let watcher = watcher
            .spawn(move || watch(&shared, post))
            .map_err(|error| CommError::Setup(format!("no thread for NCCL: {error}")))?;
        group.watcher = Some(watcher);
        let call = group.collective(Kind::SetUp, Dtype::Bytes, 0);
        // Nothing of the caller's stream depends on it.
        drop(group.enqueue(call, None, |_, _, _| 0)?);
        Ok(group)
    }

    /// Rank of this process in the group.
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// Number of ranks in the group.
    pub fn size(&self) -> usize {
        self.shared.roster.members.len()
    }

    /// Whether all is well so far.
    ///
    /// # Errors
    /// Why the group has failed. Results that the device has come to since the last call are worth
    /// nothing then.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Reduces `data` over all ranks, in place.
    ///
    /// # Safety
    /// `data` is memory of this group's device, and nobody touches it before the result was waited
    /// for, except what the default stream was given before this call.
    pub unsafe fn all_reduce(&self, data: DeviceBuffer, reduction: Reduction) -> Result<Pending> {
        self.check_reducible("all-reduce", data)?;
        let call = self.collective(Kind::AllReduce, data.dtype, data.count);
        let (kind, operator) = (datatype(data.dtype), operation(reduction));
        let (pointer, count) = (data.address(), data.count);
        self.enqueue(call.reducing(reduction), None, |nccl, comm, stream| {
            // SAFETY: the caller vouches for the buffer, `enqueue` for the rest.
            unsafe { (nccl.all_reduce)(pointer, pointer, count, kind, operator, comm.0, stream) }
        })
    }

    /// Puts the buffers of all ranks one after the other; `all` is `size` times as long as `mine`.
    /// `mine` may be this rank's part of `all`.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce), for both buffers.
    pub unsafe fn all_gather(&self, mine: DeviceBuffer, all: DeviceBuffer) -> Result<Pending> {
        self.check_pair("all-gather", all, mine, self.size())?;
        let call = self.collective(Kind::AllGather, mine.dtype, mine.count);
        let kind = datatype(mine.dtype);
        self.enqueue(call, None, |nccl, comm, stream| {
            let (mine, all, count) = (mine.address(), all.address(), mine.count);
            // SAFETY: as in `all_reduce`; the lengths have been checked.
            unsafe { (nccl.all_gather)(mine, all, count, kind, comm.0, stream) }
        })
    }

    /// Reduces `all` over the ranks and gives each its part; `all` is `size` times as long.
    /// `mine` may be this rank's part of `all`.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce), for both buffers.
    pub unsafe fn reduce_scatter(
        &self,
        all: DeviceBuffer,
        mine: DeviceBuffer,
        reduction: Reduction,
    ) -> Result<Pending> {
        self.check_reducible("reduce-scatter", mine)?;
        self.check_pair("reduce-scatter", all, mine, self.size())?;
        let call = self.collective(Kind::ReduceScatter, mine.dtype, mine.count);
        let (kind, operator) = (datatype(mine.dtype), operation(reduction));
        self.enqueue(call.reducing(reduction), None, |nccl, comm, stream| {
            let (mine, all, count) = (mine.address(), all.address(), mine.count);
            // SAFETY: as in `all_reduce`; the lengths have been checked.
            unsafe { (nccl.reduce_scatter)(all, mine, count, kind, operator, comm.0, stream) }
        })
    }

    /// Sends the `n`-th of `size` equal chunks to rank `n`; chunk `n` of `receive` comes from it.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce), for both buffers, which do not overlap.
    pub unsafe fn all_to_all(&self, send: DeviceBuffer, receive: DeviceBuffer) -> Result<Pending> {
        self.check_pair("all-to-all", receive, send, 1)?;
        let size = self.size();
        if !send.count.is_multiple_of(size) {
            let reason = format!("{} elements are no {size} equal chunks", send.count);
            return Err(self.wrong("all-to-all", reason));
        }
        let call = self.collective(Kind::AllToAll, send.dtype, send.count);
        let (kind, count) = (datatype(send.dtype), send.count / size);
        self.enqueue(call, None, |nccl, comm, stream| {
            // SAFETY: no arguments; the end follows on this thread.
            let mut code = unsafe { (nccl.group_start)() };
            for member in 0..size {
                let (from, to) = (send.chunk(member, count), receive.chunk(member, count));
                let peer = number(member);
                if code == 0 {
                    // SAFETY: as in `all_reduce`; the chunks are inside the buffers.
                    code = unsafe { (nccl.send)(from, count, kind, peer, comm.0, stream) };
                }
                if code == 0 {
                    // SAFETY: as above.
                    code = unsafe { (nccl.recv)(to, count, kind, peer, comm.0, stream) };
                }
            }
            // SAFETY: the group was started. It is also ended after an error.
            let ended = unsafe { (nccl.group_end)() };
            if code == 0 { ended } else { code }
        })
    }

    /// Gives all ranks the buffer of rank `root`.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce).
    pub unsafe fn broadcast(&self, data: DeviceBuffer, root: usize) -> Result<Pending> {
        if root >= self.size() {
            return Err(self.no_rank("broadcast", root));
        }
        let call = self.collective(Kind::Broadcast, data.dtype, data.count);
        let (kind, root) = (datatype(data.dtype), number(root));
        let (pointer, count) = (data.address(), data.count);
        self.enqueue(call, None, |nccl, comm, stream| {
            // SAFETY: as in `all_reduce`; the root is a rank of the group.
            unsafe { (nccl.broadcast)(pointer, pointer, count, kind, root, comm.0, stream) }
        })
    }

    /// Sends a buffer to rank `to`, which receives one of the same type and length.
    ///
    /// It may wait on the device until the other end receives: two ranks that both send first wait
    /// for ever. [`all_to_all`](Self::all_to_all) exchanges.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce).
    pub unsafe fn send(&self, data: DeviceBuffer, to: usize) -> Result<Pending> {
        self.check_peer("send", to)?;
        let call = Call::new(Kind::Message, data.dtype, data.count);
        let (kind, peer) = (datatype(data.dtype), number(to));
        let (pointer, count) = (data.address(), data.count);
        self.enqueue(call, Some(to), |nccl, comm, stream| {
            // SAFETY: as in `all_reduce`; the peer is a rank of the group.
            unsafe { (nccl.send)(pointer, count, kind, peer, comm.0, stream) }
        })
    }

    /// Receives what rank `from` sends.
    ///
    /// # Safety
    /// As for [`all_reduce`](Self::all_reduce).
    pub unsafe fn recv(&self, data: DeviceBuffer, from: usize) -> Result<Pending> {
        self.check_peer("receive", from)?;
        let call = Call::new(Kind::Message, data.dtype, data.count);
        let (kind, peer) = (datatype(data.dtype), number(from));
        let (pointer, count) = (data.address(), data.count);
        self.enqueue(call, Some(from), |nccl, comm, stream| {
            // SAFETY: as in `all_reduce`; the peer is a rank of the group.
            unsafe { (nccl.recv)(pointer, count, kind, peer, comm.0, stream) }
        })
    }

    /// Over when the devices of all ranks have come to it.
    pub fn barrier(&self) -> Result<Pending> {
        let pointer = self.nothing.as_ref().map_or(0, Memory::pointer) as *mut c_void;
        let call = self.collective(Kind::Barrier, Dtype::I64, 1);
        let (kind, operator) = (datatype(Dtype::I64), operation(Reduction::Sum));
        self.enqueue(call, None, |nccl, comm, stream| {
            // SAFETY: an element that lives as long as the group and that nobody else uses.
            unsafe { (nccl.all_reduce)(pointer, pointer, 1, kind, operator, comm.0, stream) }
        })
    }

    fn collective(&self, kind: Kind, dtype: Dtype, count: usize) -> Call {
        Call {
            sequence: self.collectives.fetch_add(1, Ordering::Relaxed) + 1,
            ..Call::new(kind, dtype, count)
        }
    }

    /// Gives an operation to the group's stream. `launch` is called with a valid communicator and
    /// a stream of its device, which has been entered; not at all for empty buffers.
    fn enqueue(
        &self,
        call: Call,
        peer: Option<usize>,
        launch: impl FnOnce(&Nccl, Comm, cudaStream_t) -> Code,
    ) -> Result<Pending> {
        let shared = &*self.shared;
        let failed = |reason: String| shared.fail(reason);
        let _order = lock(&self.order);
        shared.check()?;
        let _entered = shared.device.enter().map_err(failed)?;
        shared.make_room()?;
        let ready = Event::record(&shared.device, default_stream()).map_err(failed)?;
        ready.hold(shared.stream.raw()).map_err(failed)?;
        // Before the call, which may wait for the other ranks too.
        lock(&shared.queue).push(Operation {
            call,
            peer,
            ready,
            done: None,
        });
        let stream = shared.stream.raw().cast();
        if call.count > 0 {
            let launched = shared.call("NCCL", |comm| launch(shared.nccl, comm, stream));
            launched.map_err(failed)?;
        }
        shared.settle()?;
        let done = Event::record(&shared.device, shared.stream.raw()).map_err(failed)?;
        lock(&shared.queue).launched(Arc::clone(&done));
        Ok(Pending {
            shared: Arc::clone(&self.shared),
            done: Some(done),
        })
    }

    fn check_reducible(&self, operation: &str, data: DeviceBuffer) -> Result<()> {
        if data.dtype == Dtype::Bytes {
            return Err(self.wrong(operation, "bytes cannot be reduced".to_owned()));
        }
        Ok(())
    }

    /// `long` is `times` times as long as `short`.
    fn check_pair(
        &self,
        operation: &str,
        long: DeviceBuffer,
        short: DeviceBuffer,
        times: usize,
    ) -> Result<()> {
        if long.dtype != short.dtype {
            let (long, short) = (long.dtype.name(), short.dtype.name());
            return Err(self.wrong(operation, format!("buffers of {long} and {short}")));
        }
        let wanted = short.count * times;
        if long.count != wanted {
            let reason = format!("a buffer of {} elements, not {wanted}", long.count);
            return Err(self.wrong(operation, reason));
        }
        Ok(())
    }

    fn check_peer(&self, operation: &str, peer: usize) -> Result<()> {
        if peer >= self.size() {
            return Err(self.no_rank(operation, peer));
        }
        if peer == self.rank() {
            return Err(self.wrong(operation, "the other end is this rank itself".to_owned()));
        }
        Ok(())
    }

    fn no_rank(&self, operation: &str, rank: usize) -> CommError {
        let size = self.size();
        self.wrong(operation, format!("rank {rank} of a group of {size}"))
    }

    fn wrong(&self, operation: &str, reason: String) -> CommError {
        CommError::Buffer {
            group: self.shared.roster.group.clone(),
            operation: operation.to_owned(),
            reason,
        }
    }
}

impl Drop for NcclGroup {
    fn drop(&mut self) {
        self.shared.end();
        if self
            .watcher
            .take()
            .is_some_and(|watcher| watcher.join().is_err())
        {
            tracing::warn!("the watcher of a group on NCCL panicked");
        }
        let is_healthy = self.shared.is_healthy();
        self.shared.close();
        if !is_healthy {
            // To free it would wait for a device that may hang.
            std::mem::forget(self.nothing.take());
        }
    }
}

/// An operation on its way. Dropping it is as [`wait`](Self::wait), without the error.
#[derive(Debug)]
#[must_use = "the caller's stream does not wait for the result before `wait`"]
pub struct Pending {
    shared: Arc<Shared>,
    done: Option<Arc<Event>>,
}

impl Pending {
    /// Lets the default stream wait for the result. The host does not wait.
    ///
    /// # Errors
    /// The group has failed.
    pub fn wait(mut self) -> Result<()> {
        if let Err(reason) = self.hold() {
            return Err(self.shared.fail(reason));
        }
        self.shared.check()
    }

    /// As [`wait`](Self::wait), and the host waits too.
    ///
    /// # Errors
    /// The group has failed.
    pub fn synchronize(mut self) -> Result<()> {
        let Some(done) = self.done.clone() else {
            return self.shared.check();
        };
        if let Err(reason) = self.hold() {
            return Err(self.shared.fail(reason));
        }
        let mut rest = Duration::from_micros(20);
        loop {
            self.shared.check()?;
            match happened(&done) {
                // What was aborted looks as if it were done.
                Ok(true) => return self.shared.check(),
                Ok(false) => {}
                Err(reason) => return Err(self.shared.fail(reason)),
            }
            std::thread::sleep(rest);
            rest = (rest * 2).min(Duration::from_millis(1));
        }
    }

    fn hold(&mut self) -> Result<(), String> {
        let Some(done) = self.done.take() else {
            return Ok(());
        };
        let _entered = done.device().enter()?;
        done.hold(default_stream())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Err(reason) = self.hold() {
            tracing::warn!("{reason}");
        }
    }
}

fn happened(event: &Event) -> Result<bool, String> {
    let _entered = event.device().enter()?;
    event.has_happened()
}

/// Why the ranks cannot make a group, from each one's version of NCCL; 0 is none.
fn objection(versions: &[i64], members: &[usize]) -> Option<String> {
    let of = |wanted: &dyn Fn(i64) -> bool| {
        let found = versions.iter().zip(members);
        let found = found.filter(|&(&version, _)| wanted(version));
        found
            .map(|(_, member)| member.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let unable = of(&|version| version == 0);
    if !unable.is_empty() {
        return Some(format!("no NCCL at rank {unable}, which says why"));
    }
    let first = *versions.first()?;
    let others = of(&|version| version != first);
    (!others.is_empty()).then(|| {
        let first = dotted(i32::try_from(first).unwrap_or_default());
        format!("another NCCL at rank {others} than {first} at the first: all must have the same")
    })
}

fn number(value: usize) -> c_int {
    // NCCL counts ranks in this type: there are never more.
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;

    #[test]
    fn what_is_missing_is_said() {
        if let Err(missing) = is_available() {
            let known = ["libcuda", "cuInit", "GPU", "NCCL"];
            assert!(known.iter().any(|word| missing.contains(word)), "{missing}");
            assert!(devices() == 0 || missing.contains("NCCL"), "{missing}");
        }
    }

    #[test]
    fn objections_name_ranks() {
        assert_eq!(objection(&[22_809; 3], &[4, 5, 6]), None);
        let unable = objection(&[22_809, 0, 0], &[4, 5, 6]).unwrap();
        assert!(unable.contains("rank 5, 6"), "{unable}");
        let other = objection(&[22_809, 22_809, 23_004], &[4, 5, 6]).unwrap();
        assert!(other.contains("rank 6 than 2.28.9"), "{other}");
    }

    /// Without a GPU, and on a GPU that does not exist, all ranks get an error and none waits.
    #[test]
    fn nobody_waits_for_a_rank_without_a_gpu() {
        let collective_timeout = Duration::from_secs(20);
        std::thread::scope(|scope| {
            for host in threads::world(3, collective_timeout) {
                scope.spawn(move || {
                    let error = NcclGroup::new(&host, 1_000, collective_timeout).unwrap_err();
                    assert!(matches!(error, CommError::Setup(_)), "{error}");
                    host.barrier().unwrap();
                });
            }
        });
    }

    /// A rank hangs between the meeting and the connections: the others name it.
    #[test]
    fn a_rank_that_hangs_in_the_set_up_is_named() {
        if let Err(reason) = is_available() {
            return eprintln!("skipped: {reason}");
        }
        let collective_timeout = Duration::from_secs(3);
        std::thread::scope(|scope| {
            for host in threads::world(2, Duration::from_secs(30)) {
                scope.spawn(move || {
                    let (watch, prepared) = NcclGroup::meet(&host, 0).unwrap();
                    if host.rank() == 0 {
                        match NcclGroup::start(watch, prepared, collective_timeout).unwrap_err() {
                            CommError::Late { ranks, .. } => assert_eq!(ranks, [1]),
                            error => panic!("{error}"),
                        }
                    }
                    host.barrier().unwrap();
                });
            }
        });
    }
}
