//! Groups over MPI, through its C interface: `mpi`'s safe calls drop the error codes.
//!
//! All calls are made under one lock, so that the library needs to support only one thread at a
//! time, and a thread that waits gives the lock back between two looks. A collective first exchanges
//! what each rank is about to call. That costs a few microseconds and brings two things: a rank
//! that is late or at something else is named, and the blocking call that follows is only made
//! when all ranks are there.

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mpi::ffi;

use crate::backend::{Backend, PendingExchange, Result, Roster};
use crate::call::{CALL_BYTES, Call, Kind};
use crate::discovery::{Found, Source};
use crate::element::{Dtype, Reduction, reduce_bytes};
use crate::error::CommError;
use crate::group::Group;

static LOCK: Mutex<()> = Mutex::new(());
static STARTED: AtomicBool = AtomicBool::new(false);

fn locked() -> MutexGuard<'static, ()> {
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The MPI library, from its start to its end; dropped on the thread that started it.
pub(crate) struct Library {
    universe: Option<mpi::environment::Universe>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Library")
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        STARTED.store(false, Ordering::SeqCst);
        let _guard = locked();
        self.universe = None;
    }
}

/// Starts MPI and joins its world.
pub(crate) fn start(collective_timeout: Duration) -> Result<(Library, Group, Found)> {
    let wanted = mpi::Threading::Serialized;
    let (universe, threading) = mpi::initialize_with_threading(wanted)
        .ok_or_else(|| CommError::Setup("MPI was started before".to_owned()))?;
    if threading < wanted {
        let reason = format!("this MPI library supports only {threading:?} threads");
        return Err(CommError::Setup(reason));
    }
    STARTED.store(true, Ordering::SeqCst);
    let library = Library {
        universe: Some(universe),
    };
    // SAFETY: plain constants of the library, which is initialised.
    let (world, handler) = unsafe { (ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN) };
    // SAFETY: as above; the communicator is valid until the library is finalised.
    check("MPI_Comm_set_errhandler", unsafe {
        ffi::MPI_Comm_set_errhandler(world, handler)
    })?;
    let comm = Comm::of(world)?;
    let (local_rank, local_size) = local_place(world)?;
    let found = Found {
        source: Source::Mpi,
        rank: comm.rank,
        size: comm.size,
        local_rank,
        local_size,
        rendezvous: None,
    };
    let group = MpiGroup {
        roster: Roster {
            group: "world".to_owned(),
            members: (0..comm.size).collect(),
        },
        comm: Arc::new(comm),
        collective_timeout,
        calls: Arc::default(),
        own: Arc::default(),
    };
    Ok((library, Group::new(Box::new(group), "world"), found))
}

/// Ends all ranks if MPI was started; returns otherwise.
pub(crate) fn abort(code: i32) {
    if STARTED.load(Ordering::SeqCst) {
        // SAFETY: the library is initialised. The call ends the process; another thread inside the
        // library is no worse off than by the signal that would follow.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
    }
}

/// Rank and number of the world's processes on this machine.
fn local_place(world: ffi::MPI_Comm) -> Result<(usize, usize)> {
    // SAFETY: the null handle is overwritten by the call; all ranks of the world make it.
    let node = unsafe {
        let mut node = ffi::RSMPI_COMM_NULL;
        let kind = ffi::RSMPI_COMM_TYPE_SHARED;
        let info = ffi::RSMPI_INFO_NULL;
        check(
            "MPI_Comm_split_type",
            ffi::MPI_Comm_split_type(world, kind, 0, info, &mut node),
        )?;
        node
    };
    let node = Comm::of(node)?;
    Ok((node.rank, node.size))
}

fn check(operation: &str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = vec![0_u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the buffer is as long as the library's longest message.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    text.truncate(usize::try_from(length).unwrap_or(0));
    Err(CommError::Backend {
        operation: operation.to_owned(),
        reason: String::from_utf8_lossy(&text).into_owned(),
    })
}

fn count(bytes: usize, dtype: Dtype) -> Result<c_int> {
    c_int::try_from(bytes / dtype.size()).map_err(|_| CommError::Backend {
        operation: "MPI".to_owned(),
        reason: format!("a buffer of {bytes} bytes is too large for one call"),
    })
}

/// Room for a message of another rank.
fn buffer(bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(bytes)
        .map_err(|_| CommError::Backend {
            operation: "MPI".to_owned(),
            reason: format!("there is no memory for a message of {bytes} bytes"),
        })?;
    buffer.resize(bytes, 0);
    Ok(buffer)
}

/// Handles of the library's constants.
fn datatype(dtype: Dtype) -> ffi::MPI_Datatype {
    // SAFETY: constants of the library, initialised with it.
    unsafe {
        match dtype {
            Dtype::F32 => ffi::RSMPI_FLOAT,
            Dtype::I64 => ffi::RSMPI_INT64_T,
            // MPI knows no bf16: it is moved as bytes and reduced here.
            Dtype::Bf16 => ffi::RSMPI_UINT16_T,
            Dtype::Bytes => ffi::RSMPI_UINT8_T,
        }
    }
}

fn operation(reduction: Reduction) -> ffi::MPI_Op {
    // SAFETY: constants of the library, initialised with it.
    unsafe {
        match reduction {
            Reduction::Sum => ffi::RSMPI_SUM,
            Reduction::Max => ffi::RSMPI_MAX,
            Reduction::Min => ffi::RSMPI_MIN,
        }
    }
}

/// A communicator. Its handle may be a pointer, and is only used under the lock.
#[derive(Debug)]
struct Comm {
    raw: ffi::MPI_Comm,
    rank: usize,
    size: usize,
}

// SAFETY: the handle is only passed to the library, under `LOCK`.
unsafe impl Send for Comm {}
// SAFETY: as for `Send`.
unsafe impl Sync for Comm {}

impl Comm {
    fn of(raw: ffi::MPI_Comm) -> Result<Self> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: a valid communicator, and places for the answers.
        unsafe {
            check("MPI_Comm_rank", ffi::MPI_Comm_rank(raw, &mut rank))?;
            check("MPI_Comm_size", ffi::MPI_Comm_size(raw, &mut size))?;
        }
        Ok(Self {
            raw,
            rank: usize::try_from(rank).unwrap_or_default(),
            size: usize::try_from(size).unwrap_or(1),
        })
    }
}

/// Looks again and again, less often with time: a rank that waits must not keep others from the
/// processor, and one that waits for a microsecond must not sleep.
struct Backoff {
    began: Instant,
    looks: u32,
}

impl Backoff {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            looks: 0,
        }
    }

    /// How long it has been.
    fn rest(&mut self) -> Duration {
        self.looks += 1;
        let waited = self.began.elapsed();
        match self.looks {
            0..200 => std::hint::spin_loop(),
            200..2_000 => std::thread::yield_now(),
            _ if waited < Duration::from_millis(100) => {
                std::thread::sleep(Duration::from_micros(20));
            }
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
        waited
    }
}

/// A send or receive under way and its buffer, which stays where it is until it is done.
struct Transfer {
    request: ffi::MPI_Request,
    buffer: Vec<u8>,
    peer: usize,
    done: bool,
}

impl Transfer {
    fn send(comm: &Comm, to: usize, tag: c_int, buffer: Vec<u8>) -> Result<Self> {
        let length = count(buffer.len(), Dtype::Bytes)?;
        // SAFETY: the buffer lives on the heap at a fixed place, in the transfer, which is not
        // dropped before it is done (see `Drop`).
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (data, kind) = (buffer.as_ptr().cast::<c_void>(), datatype(Dtype::Bytes));
            check(
                "MPI_Isend",
                ffi::MPI_Isend(data, length, kind, to as c_int, tag, comm.raw, &mut request),
            )?;
            Ok(Self {
                request,
                buffer,
                peer: to,
                done: false,
            })
        }
    }

    fn receive(comm: &Comm, from: usize, tag: c_int, bytes: usize) -> Result<Self> {
        let mut buffer = buffer(bytes)?;
        let length = count(bytes, Dtype::Bytes)?;
        // SAFETY: as in `send`.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (data, kind) = (buffer.as_mut_ptr().cast::<c_void>(), datatype(Dtype::Bytes));
            check(
                "MPI_Irecv",
                ffi::MPI_Irecv(
                    data,
                    length,
                    kind,
                    from as c_int,
                    tag,
                    comm.raw,
                    &mut request,
                ),
            )?;
            Ok(Self {
                request,
                buffer,
                peer: from,
                done: false,
            })
        }
    }

    /// Under the lock.
    fn is_done(&mut self) -> Result<bool> {
        if !self.done {
            let mut flag = 0;
            // SAFETY: a request of the library and a place for the answer; the status is ignored.
            check("MPI_Test", unsafe {
                ffi::MPI_Test(&mut self.request, &mut flag, ffi::RSMPI_STATUS_IGNORE)
            })?;
            self.done = flag != 0;
        }
        Ok(self.done)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.done {
            // The library may still write to it. The world is about to end: a leak is the way out.
            std::mem::forget(std::mem::take(&mut self.buffer));
        }
    }
}

/// Finishes all transfers or names the peers of those that are late.
fn finish(
    transfers: &mut [Transfer],
    collective_timeout: Option<Duration>,
) -> Result<Result<(), Vec<usize>>> {
    let mut rest = Backoff::new();
    loop {
        let mut open = Vec::new();
        {
            let _guard = locked();
            for transfer in transfers.iter_mut() {
                if !transfer.is_done()? {
                    open.push(transfer.peer);
                }
            }
        }
        if open.is_empty() {
            return Ok(Ok(()));
        }
        let waited = rest.rest();
        if collective_timeout.is_some_and(|collective_timeout| waited > collective_timeout) {
            open.sort_unstable();
            open.dedup();
            return Ok(Err(open));
        }
    }
}

/// A group over a communicator.
#[derive(Debug, Clone)]
struct MpiGroup {
    comm: Arc<Comm>,
    roster: Roster,
    collective_timeout: Duration,
    calls: Arc<AtomicU64>,
    /// Messages to oneself, which MPICH does not show to a probe.
    own: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

/// Tags of what goes on inside one communicator.
mod tag {
    use std::ffi::c_int;
    pub(super) const CALL: c_int = 1;
    pub(super) const MESSAGE: c_int = 2;
    pub(super) const EXCHANGE: c_int = 3;
}

impl MpiGroup {
    fn call(&self, kind: Kind, dtype: Dtype, bytes: usize) -> Call {
        Call {
            sequence: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            ..Call::new(kind, dtype, bytes / dtype.size())
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.comm.rank;
        (0..self.comm.size).filter(move |&member| member != rank)
    }

    /// Returns when all ranks are about to make the same call.
    fn arrive(&self, call: Call) -> Result<()> {
        let mut calls = {
            let _guard = locked();
            let mut transfers = Vec::with_capacity(2 * self.comm.size);
            for member in self.others() {
                transfers.push(Transfer::receive(
                    &self.comm,
                    member,
                    tag::CALL,
                    CALL_BYTES,
                )?);
            }
            for member in self.others() {
                let bytes = call.to_bytes().to_vec();
                transfers.push(Transfer::send(&self.comm, member, tag::CALL, bytes)?);
            }
            transfers
        };
        finish(&mut calls, Some(self.collective_timeout))?
            .map_err(|missing| self.roster.late(&call, &missing, self.collective_timeout))?;
        for theirs in &calls[..self.comm.size - 1] {
            let found = theirs.buffer.first_chunk().and_then(Call::from_bytes);
            if found != Some(call) {
                return Err(self.roster.disagree(&call, theirs.peer, found));
            }
        }
        Ok(())
    }

    /// Arrives, then makes the blocking call. Without elements there is nothing to call: an empty
    /// buffer's address may be that of a constant of the library.
    fn collective(
        &self,
        call: Call,
        name: &str,
        make: impl FnOnce(ffi::MPI_Comm) -> c_int,
    ) -> Result<()> {
        self.arrive(call)?;
        if call.count == 0 {
            return Ok(());
        }
        let _guard = locked();
        check(name, make(self.comm.raw))
    }

    /// All-to-all of equal chunks after arrival.
    fn trade(&self, call: Call, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let chunk = count(send.len() / self.comm.size, Dtype::Bytes)?;
        let kind = datatype(Dtype::Bytes);
        self.collective(call, "MPI_Alltoall", |comm| {
            // SAFETY: both buffers hold `size` chunks, as `Group` has checked.
            unsafe {
                ffi::MPI_Alltoall(
                    send.as_ptr().cast(),
                    chunk,
                    kind,
                    receive.as_mut_ptr().cast(),
                    chunk,
                    kind,
                    comm,
                )
            }
        })
    }
}

impl Backend for MpiGroup {
    fn rank(&self) -> usize {
        self.comm.rank
    }

    fn size(&self) -> usize {
        self.comm.size
    }

    fn members(&self) -> &[usize] {
        &self.roster.members
    }

    fn all_reduce(&self, data: &mut [u8], dtype: Dtype, reduction: Reduction) -> Result<()> {
        let size = self.comm.size;
        if size == 1 {
            return Ok(());
        }
        if dtype == Dtype::Bf16 {
            // Every rank reduces a part, in f32 and in the order of the ranks.
            let part = data.len().div_ceil(2 * size) * 2;
            let mut padded = data.to_vec();
            padded.resize(part * size, 0);
            let mut mine = vec![0; part];
            self.reduce_scatter(&padded, &mut mine, dtype, reduction)?;
            self.all_gather(&mine, &mut padded)?;
            data.copy_from_slice(&padded[..data.len()]);
            return Ok(());
        }
        let call = self
            .call(Kind::AllReduce, dtype, data.len())
            .reducing(reduction);
        let elements = count(data.len(), dtype)?;
        let kind = (datatype(dtype), operation(reduction));
        // A library that we do not know gets the input in a buffer of its own.
        let copy = in_place().is_none().then(|| data.to_vec());
        let input = match &copy {
            Some(copy) => copy.as_ptr().cast(),
            None => in_place().unwrap_or(std::ptr::null()),
        };
        self.collective(call, "MPI_Allreduce", |comm| {
            // SAFETY: the input is a copy of the output or the library's constant for "the input
            // is in the output"; the buffer holds `elements` elements.
            unsafe {
                let data = data.as_mut_ptr().cast();
                ffi::MPI_Allreduce(input, data, elements, kind.0, kind.1, comm)
            }
        })
    }

    fn all_gather(&self, mine: &[u8], all: &mut [u8]) -> Result<()> {
        let call = self.call(Kind::AllGather, Dtype::Bytes, mine.len());
        let length = count(mine.len(), Dtype::Bytes)?;
        let kind = datatype(Dtype::Bytes);
        self.collective(call, "MPI_Allgather", |comm| {
            // SAFETY: `all` holds `size` times `mine`, as `Group` has checked.
            unsafe {
                let (mine, all) = (mine.as_ptr().cast(), all.as_mut_ptr().cast());
                ffi::MPI_Allgather(mine, length, kind, all, length, kind, comm)
            }
        })
    }

    fn reduce_scatter(
        &self,
        all: &[u8],
        mine: &mut [u8],
        dtype: Dtype,
        reduction: Reduction,
    ) -> Result<()> {
        let call = self
            .call(Kind::ReduceScatter, dtype, mine.len())
            .reducing(reduction);
        if dtype == Dtype::Bf16 {
            let mut parts = vec![0; all.len()];
            self.trade(call, all, &mut parts)?;
            let parts: Vec<&[u8]> = parts.chunks_exact(mine.len().max(1)).collect();
            if !mine.is_empty() {
                reduce_bytes(dtype, &parts, reduction, mine);
            }
            return Ok(());
        }
        let elements = count(mine.len(), dtype)?;
        let kind = (datatype(dtype), operation(reduction));
        self.collective(call, "MPI_Reduce_scatter_block", |comm| {
            // SAFETY: `all` holds `size` times `mine`, as `Group` has checked.
            unsafe {
                let (all, mine) = (all.as_ptr().cast(), mine.as_mut_ptr().cast());
                ffi::MPI_Reduce_scatter_block(all, mine, elements, kind.0, kind.1, comm)
            }
        })
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let call = self.call(Kind::AllToAll, Dtype::Bytes, send.len());
        self.trade(call, send, receive)
    }

    fn broadcast(&self, data: &mut [u8], root: usize) -> Result<()> {
        let call = self.call(Kind::Broadcast, Dtype::Bytes, data.len());
        let length = count(data.len(), Dtype::Bytes)?;
        let kind = datatype(Dtype::Bytes);
        self.collective(call, "MPI_Bcast", |comm| {
            // SAFETY: the buffer holds `length` bytes.
            unsafe { ffi::MPI_Bcast(data.as_mut_ptr().cast(), length, kind, root as c_int, comm) }
        })
    }

    fn barrier(&self) -> Result<()> {
        // To arrive is all that a barrier does.
        self.arrive(self.call(Kind::Barrier, Dtype::Bytes, 0))
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        if to == self.comm.rank {
            self.own().push_back(message.to_vec());
            return Ok(());
        }
        let transfer = {
            let _guard = locked();
            Transfer::send(&self.comm, to, tag::MESSAGE, message.to_vec())?
        };
        let call = Call::new(Kind::Message, Dtype::Bytes, message.len());
        finish(&mut [transfer], Some(self.collective_timeout))?
            .map_err(|missing| self.roster.late(&call, &missing, self.collective_timeout))
    }

    fn receive(&self, from: usize, collective_timeout: Option<Duration>) -> Result<Vec<u8>> {
        let mut rest = Backoff::new();
        loop {
            let found = if from == self.comm.rank {
                self.own().pop_front()
            } else {
                self.probe(from)?
            };
            if let Some(message) = found {
                return Ok(message);
            }
            let waited = rest.rest();
            if let Some(collective_timeout) =
                collective_timeout.filter(|&collective_timeout| waited > collective_timeout)
            {
                let call = Call::new(Kind::Message, Dtype::Bytes, 0);
                return Err(self.roster.late(&call, &[from], collective_timeout));
            }
        }
    }

    fn exchange(&self, mine: &[u8]) -> Result<Box<dyn PendingExchange>> {
        let call = self.call(Kind::Exchange, Dtype::Bytes, mine.len());
        let _guard = locked();
        let mut transfers = Vec::with_capacity(2 * self.comm.size);
        for member in self.others() {
            let bytes = CALL_BYTES + mine.len();
            transfers.push(Transfer::receive(&self.comm, member, tag::EXCHANGE, bytes)?);
        }
        for member in self.others() {
            let bytes = [call.to_bytes().as_slice(), mine].concat();
            transfers.push(Transfer::send(&self.comm, member, tag::EXCHANGE, bytes)?);
        }
        Ok(Box::new(MpiExchange {
            group: self.clone(),
            call,
            mine: mine.to_vec(),
            transfers,
        }))
    }

    fn subgroup(&self, members: &[usize], label: u64) -> Result<Box<dyn Backend>> {
        let ranks: Vec<c_int> = members.iter().map(|&member| member as c_int).collect();
        let _guard = locked();
        // SAFETY: handles made by the library go back to it; `ranks` are ranks of this
        // communicator. Only members make the call, which is what `MPI_Comm_create_group` wants.
        let raw = unsafe {
            let (mut all, mut some) = (ffi::RSMPI_GROUP_NULL, ffi::RSMPI_GROUP_NULL);
            check(
                "MPI_Comm_group",
                ffi::MPI_Comm_group(self.comm.raw, &mut all),
            )?;
            check(
                "MPI_Group_incl",
                ffi::MPI_Group_incl(all, ranks.len() as c_int, ranks.as_ptr(), &mut some),
            )?;
            let mut raw = ffi::RSMPI_COMM_NULL;
            let tag = (label % 30_000) as c_int;
            check(
                "MPI_Comm_create_group",
                ffi::MPI_Comm_create_group(self.comm.raw, some, tag, &mut raw),
            )?;
            check("MPI_Group_free", ffi::MPI_Group_free(&mut some))?;
            check("MPI_Group_free", ffi::MPI_Group_free(&mut all))?;
            raw
        };
        let world: Vec<usize> = members
            .iter()
            .map(|&member| self.roster.members[member])
            .collect();
        Ok(Box::new(Self {
            comm: Arc::new(Comm::of(raw)?),
            roster: Roster {
                group: format!("{world:?}"),
                members: world,
            },
            collective_timeout: self.collective_timeout,
            calls: Arc::default(),
            own: Arc::default(),
        }))
    }
}

impl MpiGroup {
    fn own(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message from another rank, if it is there.
    fn probe(&self, from: usize) -> Result<Option<Vec<u8>>> {
        let _guard = locked();
        // SAFETY: places for the answers; the status is read only after the library has filled it.
        // A matched message is received at once, into a buffer of its length.
        unsafe {
            let mut flag = 0;
            let mut message = ffi::RSMPI_MESSAGE_NULL;
            let mut status: ffi::MPI_Status = std::mem::zeroed();
            let (from, comm) = (from as c_int, self.comm.raw);
            check(
                "MPI_Improbe",
                ffi::MPI_Improbe(
                    from,
                    tag::MESSAGE,
                    comm,
                    &mut flag,
                    &mut message,
                    &mut status,
                ),
            )?;
            if flag == 0 {
                return Ok(None);
            }
            let (mut length, kind) = (0, datatype(Dtype::Bytes));
            check(
                "MPI_Get_count",
                ffi::MPI_Get_count(&status, kind, &mut length),
            )?;
            let mut buffer = buffer(usize::try_from(length).unwrap_or_default())?;
            let data = buffer.as_mut_ptr().cast();
            check(
                "MPI_Mrecv",
                ffi::MPI_Mrecv(data, length, kind, &mut message, ffi::RSMPI_STATUS_IGNORE),
            )?;
            Ok(Some(buffer))
        }
    }
}

struct MpiExchange {
    group: MpiGroup,
    call: Call,
    mine: Vec<u8>,
    transfers: Vec<Transfer>,
}

impl PendingExchange for MpiExchange {
    fn wait(mut self: Box<Self>) -> Result<Vec<Vec<u8>>> {
        let group = &self.group;
        finish(&mut self.transfers, Some(group.collective_timeout))?.map_err(|missing| {
            group
                .roster
                .late(&self.call, &missing, group.collective_timeout)
        })?;
        let mut all = vec![Vec::new(); group.comm.size];
        for theirs in self.transfers.drain(..).take(group.comm.size - 1) {
            let mut theirs = theirs;
            let found = theirs.buffer.first_chunk().and_then(Call::from_bytes);
            if found != Some(self.call) {
                return Err(group.roster.disagree(&self.call, theirs.peer, found));
            }
            all[theirs.peer] = theirs.buffer.split_off(CALL_BYTES);
        }
        all[group.comm.rank] = std::mem::take(&mut self.mine);
        Ok(all)
    }
}

/// `MPI_IN_PLACE` of the library in use: a macro of its header, which the bindings lack.
fn in_place() -> Option<*const c_void> {
    static VALUE: OnceLock<Option<usize>> = OnceLock::new();
    let value = VALUE.get_or_init(|| {
        // SAFETY: a constant of the library.
        let longest = unsafe { ffi::RSMPI_MAX_LIBRARY_VERSION_STRING };
        let mut text = vec![0_u8; usize::try_from(longest).unwrap_or_default() + 1];
        let mut length = 0;
        // SAFETY: the buffer is as long as the library's longest answer.
        unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast(), &mut length) };
        let text = String::from_utf8_lossy(&text);
        if text.contains("Open MPI") {
            Some(1)
        } else if text.contains("MPICH") {
            Some(usize::MAX)
        } else {
            None
        }
    });
    value.map(|value| value as *const c_void)
}

/// The library's all-reduce of the world and nothing else, for comparison.
pub(crate) fn bare_all_reduce(data: &mut [f32]) -> Result<()> {
    let bytes = std::mem::size_of_val(data);
    let elements = count(bytes, Dtype::F32)?;
    let copy = in_place().is_none().then(|| data.to_vec());
    let input = match &copy {
        Some(copy) => copy.as_ptr().cast(),
        None => in_place().unwrap_or(std::ptr::null()),
    };
    let _guard = locked();
    // SAFETY: as in `MpiGroup::all_reduce`; all ranks of the world make the call.
    check("MPI_Allreduce", unsafe {
        ffi::MPI_Allreduce(
            input,
            data.as_mut_ptr().cast(),
            elements,
            datatype(Dtype::F32),
            operation(Reduction::Max),
            ffi::RSMPI_COMM_WORLD,
        )
    })
}
