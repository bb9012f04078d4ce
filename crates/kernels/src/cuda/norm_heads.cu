// RMS norm of queries or keys over all heads, rotation of adjacent pairs, and the way from
// [batch, tokens, heads * dim] to [batch, heads, tokens, dim]; one block for each token.

// The sum of the squares of a row, the same in all threads.
template <bool WIDE, typename In>
__device__ __forceinline__ float row_squares(const In* x, int width) {
    constexpr int N = WIDE ? 4 : 1;
    float squares = 0.0f;
    FOR_ROW(i, N, width) {
        float values[N];
        load<WIDE>(x + i, values);
#pragma unroll
        for (int k = 0; k < N; ++k) squares += values[k] * values[k];
    }
    return block_sum(squares);
}

// Rotates neighbouring values by the angles with these cosines and sines.
template <int N>
__device__ __forceinline__ void rotate_pairs(float (&values)[N], const float (&c)[N / 2],
                                             const float (&s)[N / 2]) {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
        const float even = values[2 * k], odd = values[2 * k + 1];
        values[2 * k] = even * c[k] - odd * s[k];
        values[2 * k + 1] = even * s[k] + odd * c[k];
    }
}

// `cos` and `sin` are those of the token, or null. `out` is the place of the token in the first
// head; heads are `stride` elements apart.
template <bool WIDE, typename In, typename Out>
__device__ __forceinline__ void scale_and_rotate(const In* x, float factor, const float* weight,
                                                 const float* cos, const float* sin, Out* out,
                                                 long long stride, int width, int dim) {
    constexpr int N = WIDE ? 4 : 2;
    FOR_ROW(i, N, width) {
        // The remainder is asked for as such: of `i - head * dim` NVRTC cannot tell that the
        // neighbours stay together, and writes them one by one.
        const int head = i / dim, channel = i % dim;
        float values[N], weights[N];
        load<WIDE>(x + i, values);
        load<WIDE>(weight + i, weights);
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] = values[k] * factor * weights[k];
        if (cos) {
            float c[N / 2], s[N / 2];
            load<WIDE>(cos + channel / 2, c);
            load<WIDE>(sin + channel / 2, s);
            rotate_pairs(values, c, s);
        }
        store<WIDE>(out + head * stride + channel, values);
    }
}

template <bool WIDE, typename In, typename Out>
__device__ __forceinline__ void norm_heads_row(const In* x, const float* weight,
                                               const float* given, const float* cos,
                                               const float* sin, Out* out, long long stride,
                                               int width, int dim, float eps) {
    // All threads take the same way: `given` is null for all of them or for none. The row is read
    // twice, the second time out of the cache.
    const float factor =
        given ? *given
              : 1.0f / sqrtf(row_squares<WIDE>(x, width) / static_cast<float>(width) + eps);
    scale_and_rotate<WIDE>(x, factor, weight, cos, sin, out, stride, width, dim);
}

template <typename In, typename Out>
__device__ __forceinline__ void norm_heads(const In* x, const float* weight, const float* factors,
                                           const float* cos, const float* sin, Out* out,
                                           long long tokens, long long heads, long long dim,
                                           float eps) {
    const long long place = blockIdx.x, sample = place / tokens, token = place % tokens;
    const long long width = heads * dim, stride = tokens * dim;
    const bool wide = dim % 4 == 0 && aligned(x) && aligned(weight) && aligned(cos) &&
                      aligned(sin) && aligned(out);
    x += place * width;
    out += sample * heads * stride + token * dim;
    if (factors) factors += place;
    if (cos) {
        cos += token * (dim / 2);
        sin += token * (dim / 2);
    }
    if (wide) {
        norm_heads_row<true>(x, weight, factors, cos, sin, out, stride, static_cast<int>(width),
                             static_cast<int>(dim), eps);
    } else {
        norm_heads_row<false>(x, weight, factors, cos, sin, out, stride, static_cast<int>(width),
                              static_cast<int>(dim), eps);
    }
}

#define NORM_HEADS(NAME, IN, OUT)                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                     \
        NAME(const IN* __restrict__ x, const float* __restrict__ weight,                  \
             const float* __restrict__ factors, const float* __restrict__ cos,            \
             const float* __restrict__ sin, OUT* __restrict__ out, long long tokens,      \
             long long heads, long long dim, float eps) {                                 \
        norm_heads(x, weight, factors, cos, sin, out, tokens, heads, dim, eps);           \
    }
NORM_HEADS(norm_heads_f32_f32, float, float)
NORM_HEADS(norm_heads_f32_bf16, float, bf16)
NORM_HEADS(norm_heads_bf16_f32, bf16, float)
NORM_HEADS(norm_heads_bf16_bf16, bf16, bf16)

// RMS norm of each head by itself, with a weight that all heads share, rotation of adjacent pairs, and
// the way from [batch, tokens, heads * dim] into a run of tokens of [batch, heads, all, dim]; one block
// for each token, whose warps take the heads in turns.

template <bool WIDE, typename In, typename Out>
__device__ __forceinline__ void norm_each_row(const In* x, const float* weight, const float* cos,
                                              const float* sin, Out* out, long long stride,
                                              int heads, int dim, float eps) {
    constexpr int N = WIDE ? 4 : 2;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int warps = static_cast<int>(blockDim.x / 32);
    for (int head = static_cast<int>(threadIdx.x / 32); head < heads; head += warps) {
        const In* from = x + head * dim;
        float squares = 0.0f;
        for (int i = lane * N; i < dim; i += 32 * N) {
            float values[N];
            load<WIDE>(from + i, values);
#pragma unroll
            for (int k = 0; k < N; ++k) squares += values[k] * values[k];
        }
        const float factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(dim) + eps);
        // The head is read a second time, out of the cache.
        for (int i = lane * N; i < dim; i += 32 * N) {
            float values[N], weights[N], c[N / 2], s[N / 2];
            load<WIDE>(from + i, values);
            load<WIDE>(weight + i, weights);
            load<WIDE>(cos + i / 2, c);
            load<WIDE>(sin + i / 2, s);
#pragma unroll
            for (int k = 0; k < N; ++k) values[k] = values[k] * factor * weights[k];
            rotate_pairs(values, c, s);
            store<WIDE>(out + head * stride + i, values);
        }
    }
}

template <typename In, typename Out>
__device__ __forceinline__ void norm_each_head(const In* x, const float* weight, const float* cos,
                                               const float* sin, Out* out, long long tokens,
                                               long long heads, long long dim, long long first,
                                               long long all, float eps) {
    const long long place = blockIdx.x, sample = place / tokens, token = place % tokens;
    const long long stride = all * dim;
    // Rows of the table are those of `all` tokens.
    cos += (first + token) * (dim / 2);
    sin += (first + token) * (dim / 2);
    x += place * heads * dim;
    out += sample * heads * stride + (first + token) * dim;
    const bool wide = dim % 4 == 0 && aligned(x) && aligned(weight) && aligned(cos) &&
                      aligned(sin) && aligned(out);
    if (wide) {
        norm_each_row<true>(x, weight, cos, sin, out, stride, static_cast<int>(heads),
                            static_cast<int>(dim), eps);
    } else {
        norm_each_row<false>(x, weight, cos, sin, out, stride, static_cast<int>(heads),
                             static_cast<int>(dim), eps);
    }
}

#define NORM_EACH_HEAD(NAME, IN, OUT)                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                       \
        NAME(const IN* __restrict__ x, const float* __restrict__ weight,                    \
             const float* __restrict__ cos, const float* __restrict__ sin,                  \
             OUT* __restrict__ out, long long tokens, long long heads, long long dim,       \
             long long first, long long all, float eps) {                                   \
        norm_each_head(x, weight, cos, sin, out, tokens, heads, dim, first, all, eps);      \
    }
NORM_EACH_HEAD(norm_each_head_f32_f32, float, float)
NORM_EACH_HEAD(norm_each_head_f32_bf16, float, bf16)
NORM_EACH_HEAD(norm_each_head_bf16_f32, bf16, float)
NORM_EACH_HEAD(norm_each_head_bf16_bf16, bf16, bf16)

// What ranks that hold some heads each add up before they know a factor: the sum of the squares
// of every token, [batch * tokens].
template <typename In>
__device__ __forceinline__ void square_sums(const In* x, float* sums, long long width) {
    const bool wide = width % 4 == 0 && aligned(x);
    x += blockIdx.x * width;
    const float sum = wide ? row_squares<true>(x, static_cast<int>(width))
                           : row_squares<false>(x, static_cast<int>(width));
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

#define SQUARE_SUMS(NAME, IN)                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                   \
        NAME(const IN* __restrict__ x, float* __restrict__ sums, long long width) {     \
        square_sums(x, sums, width);                                                    \
    }
SQUARE_SUMS(square_sums_f32, float)
SQUARE_SUMS(square_sums_bf16, bf16)
