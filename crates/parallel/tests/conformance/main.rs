//! Every back end that this machine has must do the same: threads, sockets between processes, MPI
//! if it was built in and `mpirun` is there, and NCCL if there are GPUs.
//!
//! Without arguments this program is the test. It starts itself as the ranks of worlds, which then
//! find `STORYLOOM_CONFORMANCE` in their environment.

#![allow(clippy::unwrap_used, reason = "a test without the harness")]

mod gpus;

use std::ffi::OsString;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use half::bf16;
use storyloom_parallel::launcher::{Ended, launch};
use storyloom_parallel::{
    CommError, Element, Encryption, Group, Reduction, World, WorldOptions, threads,
};

const ROLE: &str = "STORYLOOM_CONFORMANCE";
/// How long ranks wait for one that is late on purpose.
const SHORT: Duration = Duration::from_secs(3);
/// How long ranks wait for each other otherwise; what takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("suite") => rank(suite, TIMEOUT),
        Ok("sealed") => sealed(suite, TIMEOUT),
        Ok("sealed dies") => sealed(one_dies, TIMEOUT),
        Ok("late") => rank(one_is_late, SHORT),
        Ok("dies") => rank(one_dies, TIMEOUT),
        Ok("gpus") => rank(gpus::suite, SHORT),
        Ok("gpus late") => rank(gpus::one_is_late, SHORT),
        Ok("gpus dies") => rank(gpus::one_dies, SHORT),
        Ok("gpus shared") => rank(gpus::two_on_one_device, SHORT),
        Ok(role) => panic!("{ROLE}={role} is unknown"),
        Err(_) => all_backends(),
    }
}

/// The life of one rank of a world that a launcher started.
fn rank(role: fn(&Group), collective_timeout: Duration) -> ExitCode {
    rank_with(role, collective_timeout, Encryption::None)
}

/// The same where ranks encrypt what they say.
fn sealed(role: fn(&Group), collective_timeout: Duration) -> ExitCode {
    rank_with(role, collective_timeout, Encryption::Noise)
}

fn rank_with(role: fn(&Group), collective_timeout: Duration, encryption: Encryption) -> ExitCode {
    let options = WorldOptions {
        collective_timeout,
        encryption,
    };
    let world = World::join(options).unwrap();
    role(world.group());
    ExitCode::SUCCESS
}

fn all_backends() -> ExitCode {
    for size in 1..=4 {
        on_threads(size, suite, TIMEOUT);
        println!("threads, {size} ranks: ok");
    }
    on_threads(3, one_is_late, SHORT);
    for size in [1, 2, 4] {
        assert_eq!(on_sockets(size, "suite"), Ended::Code(0));
        println!("sockets, {size} ranks: ok");
    }
    assert_eq!(on_sockets(3, "late"), Ended::Code(0));
    let began = Instant::now();
    assert_eq!(on_sockets(3, "dies"), Ended::Killed(9));
    assert!(began.elapsed() < TIMEOUT / 2);
    println!("sockets, a rank that is late and one that dies: ok");
    for size in [2, 3] {
        assert_eq!(on_sockets(size, "sealed"), Ended::Code(0));
    }
    let began = Instant::now();
    assert_eq!(on_sockets(3, "sealed dies"), Ended::Killed(9));
    assert!(began.elapsed() < TIMEOUT / 2);
    println!("sockets with encryption, 2 and 3 ranks, and one that dies: ok");
    on_mpi();
    gpus::on_nccl();
    ExitCode::SUCCESS
}

fn on_threads(size: usize, role: fn(&Group), collective_timeout: Duration) {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = threads::world(size, collective_timeout)
            .into_iter()
            .map(|group| scope.spawn(move || role(&group)))
            .collect();
        for rank in ranks {
            rank.join().unwrap();
        }
    });
}

fn on_sockets(size: usize, role: &str) -> Ended {
    // The ranks inherit it. Nothing else of this program runs meanwhile.
    // SAFETY: the threads of the worlds before have ended.
    unsafe { std::env::set_var(ROLE, role) };
    let program = std::env::current_exe().unwrap().into_os_string();
    let ended = launch(size, &program, &[OsString::new()], 75).unwrap();
    // SAFETY: as above.
    unsafe { std::env::remove_var(ROLE) };
    ended
}

fn on_mpi() {
    if cfg!(not(feature = "mpi")) {
        println!("skipped: MPI is not built in (--features mpi)");
        return;
    }
    let mpirun = std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let start = |size: usize, role: &str| {
        Command::new(&mpirun)
            .args(["-n", &size.to_string()])
            .arg(std::env::current_exe().unwrap())
            .env(ROLE, role)
            // For Open MPI; others do not look at them.
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
            .status()
    };
    for size in [1, 2, 3, 4] {
        let status = start(size, "suite").expect("mpirun of the MPI library that was built in");
        assert!(status.success(), "{size} ranks: {status}");
        println!("MPI, {size} ranks: ok");
    }
    assert!(start(3, "late").unwrap().success());
    let began = Instant::now();
    assert!(!start(3, "dies").unwrap().success());
    assert!(began.elapsed() < TIMEOUT / 2);
    println!("MPI, a rank that is late and one that dies: ok");
}

/// The value of an element of a rank's buffer: small integers, whose sums are exact in every type.
fn value(rank: usize, place: usize) -> i64 {
    ((rank * 31 + place * 7) % 23) as i64 - 9
}

trait Number: Element + PartialEq + std::fmt::Debug {
    fn of(value: i64) -> Self;
}

impl Number for f32 {
    fn of(value: i64) -> Self {
        value as f32
    }
}

impl Number for i64 {
    fn of(value: i64) -> Self {
        value
    }
}

impl Number for bf16 {
    fn of(value: i64) -> Self {
        bf16::from_f32(value as f32)
    }
}

fn buffer<T: Number>(rank: usize, length: usize) -> Vec<T> {
    (0..length).map(|place| T::of(value(rank, place))).collect()
}

fn reduced(ranks: usize, place: usize, reduction: Reduction) -> i64 {
    let values = (0..ranks).map(|rank| value(rank, place));
    match reduction {
        Reduction::Sum => values.sum(),
        Reduction::Max => values.max().unwrap_or_default(),
        Reduction::Min => values.min().unwrap_or_default(),
    }
}

/// The collectives that all back ends have, on buffers of the host.
trait Ranks {
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    fn all_reduce<T: Number>(&self, data: &mut [T], reduction: Reduction);
    fn reduce_scatter<T: Number>(&self, all: &[T], mine: &mut [T], reduction: Reduction);
    fn all_gather<T: Number>(&self, mine: &[T], all: &mut [T]);
    fn all_to_all<T: Number>(&self, send: &[T], receive: &mut [T]);
    fn broadcast<T: Number>(&self, data: &mut [T], root: usize);
}

impl Ranks for Group {
    fn rank(&self) -> usize {
        self.rank()
    }

    fn size(&self) -> usize {
        self.size()
    }

    fn all_reduce<T: Number>(&self, data: &mut [T], reduction: Reduction) {
        self.all_reduce(data, reduction).unwrap();
    }

    fn reduce_scatter<T: Number>(&self, all: &[T], mine: &mut [T], reduction: Reduction) {
        self.reduce_scatter(all, mine, reduction).unwrap();
    }

    fn all_gather<T: Number>(&self, mine: &[T], all: &mut [T]) {
        self.all_gather(mine, all).unwrap();
    }

    fn all_to_all<T: Number>(&self, send: &[T], receive: &mut [T]) {
        self.all_to_all(send, receive).unwrap();
    }

    fn broadcast<T: Number>(&self, data: &mut [T], root: usize) {
        self.broadcast(data, root).unwrap();
    }
}

/// Everything that a group does, against what it should be.
fn suite(world: &Group) {
    collectives::<f32>(world);
    collectives::<i64>(world);
    collectives::<bf16>(world);
    messages(world);
    overlapped(world);
    same_bits(world);
    subgroups(world);
    wrong_buffers(world);
    disagreement(world);
    world.barrier().unwrap();
}

fn collectives<T: Number>(group: &impl Ranks) {
    let (rank, size) = (group.rank(), group.size());
    for length in [0, 1, 7, 1_000, 10_007, 300_000] {
        for reduction in [Reduction::Sum, Reduction::Max, Reduction::Min] {
            let expected: Vec<T> = (0..length * size)
                .map(|place| T::of(reduced(size, place, reduction)))
                .collect();
            let mut data = buffer::<T>(rank, length);
            group.all_reduce(&mut data, reduction);
            assert_eq!(data, expected[..length]);

            let mut mine = vec![T::of(0); length];
            let all = buffer::<T>(rank, length * size);
            group.reduce_scatter(&all, &mut mine, reduction);
            assert_eq!(mine, expected[rank * length..][..length]);
        }
        let mut all = vec![T::of(0); length * size];
        group.all_gather(&buffer::<T>(rank, length), &mut all);
        let expected: Vec<T> = (0..size).flat_map(|rank| buffer(rank, length)).collect();
        assert_eq!(all, expected);

        group.all_to_all(&buffer::<T>(rank, length * size), &mut all);
        let chunk = |from| buffer::<T>(from, length * size)[rank * length..][..length].to_vec();
        let expected: Vec<T> = (0..size).flat_map(chunk).collect();
        assert_eq!(all, expected);

        for root in 0..size {
            let mut data = buffer::<T>(rank, length);
            group.broadcast(&mut data, root);
            assert_eq!(data, buffer(root, length));
        }
    }
}

/// Round the ring, to oneself too, and in order.
fn messages(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    let (next, last) = ((rank + 1) % size, (rank + size - 1) % size);
    if size == 1 {
        return;
    }
    for length in [0, 1, 5_000, 3_000_001] {
        let message = vec![rank as u8; length];
        // Half of the ring talks while the other listens, since large messages may wait for that.
        let receive = || group.receive(last, Some(TIMEOUT)).unwrap();
        let theirs = if rank % 2 == 0 {
            group.send(next, &message).unwrap();
            receive()
        } else {
            let theirs = receive();
            group.send(next, &message).unwrap();
            theirs
        };
        assert_eq!(theirs, vec![last as u8; length]);
    }
    for number in 0..20_u8 {
        group.send(next, &[number]).unwrap();
    }
    for number in 0..20_u8 {
        assert_eq!(group.receive(last, None).unwrap(), [number]);
    }
}

fn overlapped(group: &Group) {
    let mine = buffer::<f32>(group.rank(), 999);
    let first = group.start_all_reduce(&mine, Reduction::Sum).unwrap();
    let second = group.start_all_reduce(&mine, Reduction::Max).unwrap();
    let mut output = vec![0.0; 999];
    first.wait(&mut output).unwrap();
    let expected: Vec<f32> = (0..999)
        .map(|place| reduced(group.size(), place, Reduction::Sum) as f32)
        .collect();
    assert_eq!(output, expected);
    second.wait(&mut output).unwrap();
    assert_eq!(output[5], reduced(group.size(), 5, Reduction::Max) as f32);
}

/// Sums that are not exact come out alike on every rank, and alike every time.
fn same_bits(group: &impl Ranks) {
    for length in [100, 100_000] {
        let values = |place: usize| ((place * (group.rank() + 3)) as f32 * 0.37).sin();
        let sum = || {
            let mut data: Vec<f32> = (0..length).map(values).collect();
            group.all_reduce(&mut data, Reduction::Sum);
            data.iter()
                .map(|value| i64::from(value.to_bits()))
                .collect::<Vec<_>>()
        };
        let bits = sum();
        assert_eq!(bits, sum());
        let (mut most, mut least) = (bits.clone(), bits.clone());
        group.all_reduce(&mut most, Reduction::Max);
        group.all_reduce(&mut least, Reduction::Min);
        assert!(most == bits && least == bits);
    }
}

fn subgroups(world: &Group) {
    let (rank, size) = (world.rank(), world.size());
    let of_parity = |parity: usize| {
        (0..size)
            .filter(|rank| rank % 2 == parity)
            .collect::<Vec<_>>()
    };
    let groups = [0, 1].map(|parity| {
        let members = of_parity(parity);
        let name = ["even", "odd"][parity];
        (!members.is_empty())
            .then(|| world.subgroup(&members, name).unwrap())
            .flatten()
    });
    assert_eq!(
        groups[rank % 2].as_ref().map(Group::size),
        Some(of_parity(rank % 2).len())
    );
    assert!(groups[1 - rank % 2].is_none());
    let group = groups[rank % 2].as_ref().unwrap();
    assert_eq!(group.rank(), rank / 2);
    collectives::<f32>(group);
    // Groups of a group, and the same ranks twice: nothing gets mixed up.
    let all: Vec<usize> = (0..group.size()).collect();
    let twins = [(); 2].map(|()| group.subgroup(&all, "twin").unwrap().unwrap());
    for (number, twin) in twins.iter().enumerate() {
        twin.send(0, &[number as u8]).unwrap();
    }
    if group.rank() == 0 {
        for from in 0..group.size() {
            for (number, twin) in twins.iter().enumerate().rev() {
                assert_eq!(twin.receive(from, Some(TIMEOUT)).unwrap(), [number as u8]);
            }
        }
    }
}

/// Refused before anything is sent.
fn wrong_buffers(group: &Group) {
    let error = group.all_gather(&[1.0_f32], &mut [0.0; 77]).unwrap_err();
    assert!(error.to_string().contains("77 elements, not"), "{error}");
    assert!(group.broadcast(&mut [1_i64], group.size()).is_err());
    assert!(group.send(99, &[]).is_err());
}

/// A rank that is at something else is named.
fn disagreement(world: &Group) {
    let all: Vec<usize> = (0..world.size()).collect();
    let group = world.subgroup(&all, "disagreement").unwrap().unwrap();
    if group.size() < 2 {
        return;
    }
    let result = match group.rank() {
        1 => group.all_reduce(&mut [1_i64; 3], Reduction::Sum),
        _ => group.barrier(),
    };
    let error = result.unwrap_err();
    match (group.rank(), &error) {
        (1, CommError::Disagree { rank, theirs, .. }) => {
            assert_eq!(*rank, 0);
            assert!(theirs.contains("barrier"), "{error}");
        }
        (_, CommError::Disagree { rank, theirs, .. }) => {
            assert_eq!(*rank, 1);
            assert!(theirs.contains("all-reduce of 3 i64"), "{error}");
        }
        _ => panic!("{error}"),
    }
    world.barrier().unwrap();
}

/// The last rank does not come: the others say so after their collective_timeout.
fn one_is_late(world: &Group) {
    let all: Vec<usize> = (0..world.size()).collect();
    let group = world.subgroup(&all, "late").unwrap().unwrap();
    let last = world.size() - 1;
    if world.rank() == last {
        // When all others have given up.
        for other in 0..last {
            world.receive(other, Some(TIMEOUT)).unwrap();
        }
        group.barrier().unwrap();
        for other in 0..last {
            world.send(other, b"here").unwrap();
        }
    } else {
        let began = Instant::now();
        let error = group.barrier().unwrap_err();
        match &error {
            CommError::Late { ranks, .. } => assert_eq!(*ranks, [last]),
            error => panic!("{error}"),
        }
        assert!(began.elapsed() >= SHORT);
        // Nobody waits again: this call is the same as the one that failed.
        assert_eq!(group.barrier().unwrap_err(), error);
        world.send(last, b"given up").unwrap();
        world.receive(last, Some(TIMEOUT)).unwrap();
    }
    world.barrier().unwrap();
}

/// A rank is killed in the middle: the others learn of it, or are ended by the launcher.
fn one_dies(world: &Group) {
    world.barrier().unwrap();
    if world.rank() == 1 {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
    }
    let error = world.receive(1, None).unwrap_err();
    assert!(matches!(error, CommError::Lost { .. }), "{error}");
    assert!(error.is_resumable());
    World::abort(75);
}
