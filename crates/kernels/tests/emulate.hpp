// Enough of CUDA to run the kernels on a CPU, compiled by a host compiler: one thread of the
// system plays all threads of a block, each on a stack of its own, and switches where they wait
// for each other.

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Dim3 {
    unsigned int x, y, z;
};
Dim3 threadIdx{}, blockIdx{}, blockDim{};

// What a kernel may have without asking for more.
constexpr std::size_t SHARED_FLOATS = (48 << 10) / sizeof(float);
extern float shared_memory[];

namespace emulation {

constexpr std::size_t STACK_BYTES = 64 << 10;
constexpr unsigned int WARP = 32, MOST_THREADS = 256;

// What a thread waits for.
enum class Wait { WARP, BLOCK, END };

struct Thread {
    ucontext_t state;
    std::vector<char> stack = std::vector<char>(STACK_BYTES);
    Wait wait = Wait::WARP;
};

std::vector<Thread> threads(MOST_THREADS);
ucontext_t scheduler;
float shuffled[MOST_THREADS];

using Kernel = void (*)(const std::uint64_t*);
Kernel kernel;
const std::uint64_t* arguments;

// Reads an argument as the driver does: as many bytes as the parameter has, from its own place.
template <typename T>
T argument(const std::uint64_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <auto ENTRY, typename... A, std::size_t... I>
void call(void (*)(A...), const std::uint64_t* from, std::index_sequence<I...>) {
    ENTRY(argument<A>(from + I)...);
}

template <auto ENTRY, typename... A>
constexpr std::size_t parameters(void (*)(A...)) {
    return sizeof...(A);
}

// A kernel with any parameters as a function of a list of arguments.
template <auto ENTRY>
void with_arguments(const std::uint64_t* from) {
    call<ENTRY>(ENTRY, from, std::make_index_sequence<parameters<ENTRY>(ENTRY)>());
}

struct Entry {
    const char* name;
    Kernel kernel;
    std::size_t parameters;
};

void thread_body() {
    kernel(arguments);
    threads[threadIdx.x].wait = Wait::END;
    // The end of the function returns to the scheduler.
}

__attribute__((noinline)) void prepare(Thread& thread) {
    getcontext(&thread.state);
    thread.state.uc_stack.ss_sp = thread.stack.data();
    thread.state.uc_stack.ss_size = STACK_BYTES;
    thread.state.uc_link = &scheduler;
    makecontext(&thread.state, thread_body, 0);
}

// Runs the threads from `first` on until they wait for more than their warp. False: not all of
// them wait for the same.
bool run_warp(unsigned int first, bool backwards, Wait& reached) {
    do {
        for (unsigned int turn = 0; turn < WARP; ++turn) {
            threadIdx.x = first + (backwards ? WARP - 1 - turn : turn);
            swapcontext(&scheduler, &threads[threadIdx.x].state);
        }
        reached = threads[first].wait;
        for (unsigned int lane = 1; lane < WARP; ++lane) {
            if (threads[first + lane].wait != reached) return false;
        }
    } while (reached == Wait::WARP);
    return true;
}

// Runs a block from barrier to barrier. Between two of them a warp gets as far as it can before
// the next one starts, which shows where a barrier is missing. False: a barrier that some threads
// never reach.
bool run_block(bool backwards) {
    const unsigned int warps = blockDim.x / WARP;
    for (unsigned int t = 0; t < blockDim.x; ++t) prepare(threads[t]);
    for (;;) {
        Wait common{};
        for (unsigned int turn = 0; turn < warps; ++turn) {
            const unsigned int warp = backwards ? warps - 1 - turn : turn;
            Wait reached;
            if (!run_warp(warp * WARP, backwards, reached)) return false;
            if (turn > 0 && reached != common) return false;
            common = reached;
        }
        if (common == Wait::END) return true;
    }
}

inline void wait_for(Wait what) {
    Thread& thread = threads[threadIdx.x];
    thread.wait = what;
    swapcontext(&thread.state, &scheduler);
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait_for(emulation::Wait::BLOCK); }

// For all threads of a warp together.
inline float __shfl_xor_sync(unsigned int, float value, int other) {
    emulation::shuffled[threadIdx.x] = value;
    emulation::wait_for(emulation::Wait::WARP);
    const float theirs = emulation::shuffled[threadIdx.x ^ static_cast<unsigned int>(other)];
    emulation::wait_for(emulation::Wait::WARP);
    return theirs;
}

inline float __uint_as_float(unsigned int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned int __float_as_uint(float value) {
    unsigned int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

extern "C" const emulation::Entry ENTRIES[];

// Runs a kernel over all blocks. `backwards` turns the order of the threads around, which must
// not show in the result. Returns what went wrong, or null.
extern "C" const char* emulate(const char* name, unsigned int blocks, unsigned int block_threads,
                               unsigned int shared_bytes, const std::uint64_t* arguments,
                               std::size_t argument_count, bool backwards) {
    const emulation::Entry* entry = ENTRIES;
    while (entry->name && std::strcmp(entry->name, name) != 0) ++entry;
    if (!entry->name) return "there is no such kernel";
    if (entry->parameters != argument_count) return "the kernel has other parameters";
    if (block_threads > emulation::MOST_THREADS || block_threads % emulation::WARP != 0) return "odd block";
    const std::size_t floats = shared_bytes / sizeof(float);
    if (floats > SHARED_FLOATS) return "too much shared memory";
    const float nothing = std::numeric_limits<float>::quiet_NaN();
    emulation::kernel = entry->kernel;
    emulation::arguments = arguments;
    blockDim = {block_threads, 1, 1};
    for (unsigned int block = 0; block < blocks; ++block) {
        blockIdx = {block, 0, 0};
        // What a block never wrote, or wrote behind its end, shows.
        for (std::size_t k = 0; k < SHARED_FLOATS; ++k) shared_memory[k] = nothing;
        if (!emulation::run_block(backwards)) return "a barrier that not all threads reach";
        for (std::size_t k = floats; k < SHARED_FLOATS; ++k) {
            if (shared_memory[k] == shared_memory[k]) return "write behind the shared memory";
        }
    }
    return nullptr;
}

__align__(16) float shared_memory[SHARED_FLOATS];
