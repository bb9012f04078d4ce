//! The collectives on GPUs: as many ranks as there are GPUs, each a process with one of them.

use std::path::Path;
use std::time::{Duration, Instant};

use cudarc::driver::{result as driver, sys};
use half::bf16;
use storyloom_parallel::launcher::Ended;
use storyloom_parallel::nccl::{self, DeviceBuffer, NcclGroup, Pending};
use storyloom_parallel::{CommError, Dtype, Element, Group, Reduction};

use crate::{Number, Ranks, SHORT, buffer, collectives, on_sockets, reduced, same_bits};

pub fn on_nccl() {
    if let Err(reason) = find() {
        println!("skipped: NCCL: {reason}");
        return;
    }
    let size = nccl::devices();
    assert_eq!(on_sockets(size, "gpus"), Ended::Code(0));
    println!("NCCL {}, {size} ranks: ok", nccl::version().unwrap());
    assert_eq!(on_sockets(2, "gpus shared"), Ended::Code(0));
    if size < 2 {
        println!("skipped: NCCL, ranks that are late or die: there is one GPU");
        return;
    }
    assert_eq!(on_sockets(size, "gpus late"), Ended::Code(0));
    assert_eq!(on_sockets(size, "gpus dies"), Ended::Killed(9));
    println!("NCCL, a rank that is late and one that dies: ok");
}

/// NCCL from the folder in `NCCL_FOLDER`, if it is set.
fn find() -> Result<(), String> {
    if let Some(folder) = std::env::var_os("NCCL_FOLDER") {
        nccl::use_library(&Path::new(&folder).join("libnccl.so.2"))
            .map_err(|error| error.to_string())?;
    }
    nccl::is_available()
}

/// Memory of a device.
struct Memory(DeviceBuffer);

impl Memory {
    fn of<T: Element>(data: &[T]) -> Self {
        let bytes = size_of_val(data);
        // SAFETY: freed once, when it is dropped.
        let pointer = unsafe { driver::malloc_sync(bytes.max(1)) }.unwrap();
        if bytes > 0 {
            // SAFETY: the memory is as long as the data.
            unsafe { driver::memcpy_htod_sync(pointer, data) }.unwrap();
        }
        Self(DeviceBuffer {
            pointer,
            count: data.len(),
            dtype: T::DTYPE,
        })
    }

    /// What is there when the default stream has come to its end.
    fn read<T: Element>(&self, data: &mut [T]) {
        assert_eq!((self.0.count, self.0.dtype), (data.len(), T::DTYPE));
        if !data.is_empty() {
            // SAFETY: the memory is as long as the data.
            unsafe { driver::memcpy_dtoh_sync(data, self.0.pointer) }.unwrap();
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated once.
        unsafe { driver::free_sync(self.0.pointer) }.unwrap();
    }
}

/// A group, and its device as that of this thread.
struct OnDevice {
    group: NcclGroup,
    device: sys::CUdevice,
}

impl OnDevice {
    fn new(host: &Group) -> Self {
        find().unwrap();
        let ordinal = host.rank();
        let group = NcclGroup::new(host, ordinal, SHORT).unwrap();
        let device = driver::device::get(i32::try_from(ordinal).unwrap()).unwrap();
        // SAFETY: the device exists; its context is retained as long as this lives.
        unsafe { driver::ctx::set_current(driver::primary_ctx::retain(device).unwrap()) }.unwrap();
        Self { group, device }
    }

    fn read<T: Element>(&self, memory: &Memory, data: &mut [T]) {
        memory.read(data);
        self.group.check().unwrap();
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        // SAFETY: retained once.
        unsafe { driver::primary_ctx::release(self.device) }.unwrap();
    }
}

impl Ranks for OnDevice {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn all_reduce<T: Number>(&self, data: &mut [T], reduction: Reduction) {
        let memory = Memory::of(data);
        // SAFETY: the memory lives until it has been read, after the wait.
        unsafe { self.group.all_reduce(memory.0, reduction) }
            .unwrap()
            .wait()
            .unwrap();
        self.read(&memory, data);
    }

    fn reduce_scatter<T: Number>(&self, all: &[T], mine: &mut [T], reduction: Reduction) {
        let (all, part) = (Memory::of(all), Memory::of(mine));
        // SAFETY: as in `all_reduce`.
        unsafe { self.group.reduce_scatter(all.0, part.0, reduction) }
            .unwrap()
            .wait()
            .unwrap();
        self.read(&part, mine);
    }

    fn all_gather<T: Number>(&self, mine: &[T], all: &mut [T]) {
        let (mine, whole) = (Memory::of(mine), Memory::of(all));
        // SAFETY: as in `all_reduce`.
        unsafe { self.group.all_gather(mine.0, whole.0) }
            .unwrap()
            .wait()
            .unwrap();
        self.read(&whole, all);
    }

    fn all_to_all<T: Number>(&self, send: &[T], receive: &mut [T]) {
        let (send, received) = (Memory::of(send), Memory::of(receive));
        // SAFETY: as in `all_reduce`.
        unsafe { self.group.all_to_all(send.0, received.0) }
            .unwrap()
            .wait()
            .unwrap();
        self.read(&received, receive);
    }

    fn broadcast<T: Number>(&self, data: &mut [T], root: usize) {
        let memory = Memory::of(data);
        // SAFETY: as in `all_reduce`.
        unsafe { self.group.broadcast(memory.0, root) }
            .unwrap()
            .wait()
            .unwrap();
        self.read(&memory, data);
    }
}

/// Everything that a group on GPUs does, against what it should be.
pub fn suite(world: &Group) {
    let group = OnDevice::new(world);
    collectives::<f32>(&group);
    collectives::<i64>(&group);
    collectives::<bf16>(&group);
    same_bits(&group);
    messages(&group);
    overlapped(&group);
    many_at_once(&group);
    wrong_buffers(&group);
    twice(world, &group);
    group.group.barrier().unwrap().synchronize().unwrap();
}

fn messages(group: &OnDevice) {
    let (rank, size) = (group.rank(), group.size());
    let (next, last) = ((rank + 1) % size, (rank + size - 1) % size);
    if size == 1 {
        return;
    }
    for length in [0, 1, 5_000, 1_000_003] {
        let message = Memory::of(&buffer::<bf16>(rank, length));
        let mut theirs = vec![bf16::ZERO; length];
        let received = Memory::of(&theirs);
        // Half of the ring sends first: a message may wait for the other end.
        // SAFETY: the memory lives until it has been read, after the waits.
        let send = || unsafe { group.group.send(message.0, next) }.unwrap();
        // SAFETY: as above.
        let receive = || unsafe { group.group.recv(received.0, last) }.unwrap();
        let both = if rank % 2 == 0 {
            [send(), receive()]
        } else {
            [receive(), send()]
        };
        both.into_iter().for_each(|pending| pending.wait().unwrap());
        group.read(&received, &mut theirs);
        assert_eq!(theirs, buffer(last, length));
    }
}

/// Two that are under way at the same time are waited for in the other order, or not at all.
fn overlapped(group: &OnDevice) {
    let mine = buffer::<f32>(group.rank(), 999);
    let memories = [(); 3].map(|()| Memory::of(&mine));
    let start = |index: usize, reduction| {
        let memory: &Memory = &memories[index];
        // SAFETY: the memory lives until it has been read, after the waits.
        unsafe { group.group.all_reduce(memory.0, reduction) }.unwrap()
    };
    let first = start(0, Reduction::Sum);
    let second = start(1, Reduction::Max);
    drop(start(2, Reduction::Min));
    second.wait().unwrap();
    first.synchronize().unwrap();
    for (memory, reduction) in memories
        .iter()
        .zip([Reduction::Sum, Reduction::Max, Reduction::Min])
    {
        let mut output = vec![0.0_f32; 999];
        group.read(memory, &mut output);
        let expected: Vec<f32> = (0..999)
            .map(|place| reduced(group.size(), place, reduction) as f32)
            .collect();
        assert_eq!(output, expected);
    }
}

/// More than may be under way at a time.
fn many_at_once(group: &OnDevice) {
    let memory = Memory::of(&[1_i64]);
    let pending: Vec<Pending> = (0..1_000)
        // SAFETY: the memory lives until it has been read, after the waits.
        .map(|_| unsafe { group.group.all_reduce(memory.0, Reduction::Max) }.unwrap())
        .collect();
    for pending in pending {
        pending.wait().unwrap();
    }
    let mut one = [0_i64];
    group.read(&memory, &mut one);
    assert_eq!(one, [1]);
}

/// Refused before anything is sent.
fn wrong_buffers(group: &OnDevice) {
    let buffer = |count, dtype| DeviceBuffer {
        pointer: 0,
        count,
        dtype,
    };
    let (size, rank) = (group.size(), group.rank());
    let group = &group.group;
    // SAFETY: nothing is done with the pointers.
    let results = unsafe {
        [
            group.all_gather(buffer(1, Dtype::F32), buffer(77, Dtype::F32)),
            group.all_gather(buffer(1, Dtype::F32), buffer(size, Dtype::I64)),
            group.all_reduce(buffer(1, Dtype::Bytes), Reduction::Sum),
            group.broadcast(buffer(1, Dtype::F32), size),
            group.send(buffer(1, Dtype::F32), rank),
            group.recv(buffer(1, Dtype::F32), size),
        ]
    };
    for result in results {
        assert!(matches!(result, Err(CommError::Buffer { .. })));
    }
    group.check().unwrap();
}

/// Groups come and go, and do not get mixed up.
fn twice(world: &Group, first: &OnDevice) {
    let second = OnDevice::new(world);
    collectives::<f32>(&second);
    collectives::<i64>(first);
    drop(second);
    collectives::<i64>(first);
}

/// The last rank does not come: all say so after their collective_timeout, itself too.
pub fn one_is_late(world: &Group) {
    let group = OnDevice::new(world);
    let last = world.size() - 1;
    let memory = Memory::of(&[1.0_f32; 100_000]);
    // SAFETY: the memory lives until the group has failed.
    let reduce = || unsafe { group.group.all_reduce(memory.0, Reduction::Sum) };
    reduce().unwrap().synchronize().unwrap();
    let error = if world.rank() == last {
        std::thread::sleep(SHORT + Duration::from_millis(1_500));
        reduce().map(drop).unwrap_err()
    } else {
        let began = Instant::now();
        let error = reduce().and_then(Pending::synchronize).unwrap_err();
        assert!(began.elapsed() >= SHORT);
        assert!(began.elapsed() < SHORT + Duration::from_secs(8));
        error
    };
    match &error {
        CommError::Late { ranks, .. } => assert_eq!(*ranks, [last], "{error}"),
        _ => panic!("{error}"),
    }
    assert_eq!(group.group.check().as_ref(), Err(&error));
    assert_eq!(reduce().map(drop), Err(error));
    // The device is free again.
    driver::ctx::synchronize().unwrap();
    drop(memory);
    drop(group);
    world.barrier().unwrap();
}

/// A rank is killed in the middle: the others learn of it long before they lose collective_timeout.
pub fn one_dies(world: &Group) {
    let group = OnDevice::new(world);
    group.group.barrier().unwrap().synchronize().unwrap();
    world.barrier().unwrap();
    if world.rank() == 1 {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
    }
    let ended = group.group.barrier().and_then(Pending::synchronize);
    assert!(ended.unwrap_err().is_resumable());
}

/// NCCL refuses two ranks on one device. The error comes to both, and nobody waits for ever.
pub fn two_on_one_device(world: &Group) {
    find().unwrap();
    let began = Instant::now();
    if let Err(error) = NcclGroup::new(world, 0, SHORT) {
        assert!(error.is_resumable(), "{error}");
    }
    assert!(began.elapsed() < SHORT + Duration::from_secs(15));
    world.barrier().unwrap();
}
