// What the kernels share. No header is included: NVRTC comes without any, and the tests compile
// the same text with a host compiler.
//
// Sizes are 64-bit in every entry, so that all arguments have one size. Inside a row an int is
// enough.

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ void widen(float value, float& to) { to = value; }

__device__ __forceinline__ void widen(bf16 value, float& to) {
    to = __uint_as_float(static_cast<unsigned int>(value.bits) << 16);
}

__device__ __forceinline__ void narrow(float value, float& to) { to = value; }

// Rounds to nearest, ties to even. An infinity stays one; a NaN must not round up into one.
__device__ __forceinline__ void narrow(float value, bf16& to) {
    const unsigned int bits = __float_as_uint(value);
    const unsigned int rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to.bits = static_cast<unsigned short>(value == value ? rounded : 0x7fffu);
}

// N neighbours that move in one access.
template <typename T, int N>
struct alignas(N * sizeof(T)) Lanes {
    T at[N];
};

// Reads N neighbours: WIDE in one access, which their address must allow, or one by one.
template <bool WIDE, int N, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
    constexpr int LANES = WIDE ? N : 1;
#pragma unroll
    for (int k = 0; k < N; k += LANES) {
        const auto part = *reinterpret_cast<const Lanes<T, LANES>*>(from + k);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) widen(part.at[lane], to[k + lane]);
    }
}

// Writes N neighbours in the same way.
template <bool WIDE, int N, typename T>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
    constexpr int LANES = WIDE ? N : 1;
#pragma unroll
    for (int k = 0; k < N; k += LANES) {
        Lanes<T, LANES> part;
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) narrow(from[k + lane], part.at[lane]);
        *reinterpret_cast<Lanes<T, LANES>*>(to + k) = part;
    }
}

// Whether four neighbours may move at once from here. Null counts: it is never read.
template <typename T>
__device__ __forceinline__ bool aligned(const T* pointer) {
    return reinterpret_cast<unsigned long long>(pointer) % (4 * sizeof(T)) == 0;
}

// The row of the modulation vectors that a token takes.
__device__ __forceinline__ long long row_of(const long long* index, long long token,
                                            long long tokens) {
    return index ? index[token] : token / tokens;
}

// First one partial sum for each warp, then one row of values.
enum { MAX_WARPS = 32 };
extern __shared__ __align__(16) float shared_memory[];

// The sum over all threads of the warp, the same in each of them. All of them must call it.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

// The sum over all threads of the block, the same in each of them. Every thread must call it. The
// order of the additions depends on nothing but the size of the block.
__device__ __forceinline__ float block_sum(float value) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) shared_memory[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < static_cast<int>(blockDim.x / 32); ++warp) {
        total += shared_memory[warp];
    }
    // The next sum overwrites the partial ones.
    __syncthreads();
    return total;
}

// Steps of a thread through a row, N elements at a time.
#define FOR_ROW(i, N, width)                                     \
    for (int i = static_cast<int>(threadIdx.x) * N; i < (width); \
         i += static_cast<int>(blockDim.x) * N)
