// out[b, t, :] = layer_norm(x[b, t, :]) * scale[row] + shift[row]; one block for each token.

template <bool WIDE, typename In, typename Out>
__device__ __forceinline__ void modulate_row(const In* x, const float* scale, const float* shift,
                                             Out* out, int width, float eps) {
    constexpr int N = WIDE ? 4 : 1;
    // A thread reads back only what it wrote itself, so that the row needs no barrier.
    float* row = shared_memory + MAX_WARPS;
    float sum = 0.0f;
    FOR_ROW(i, N, width) {
        float values[N];
        load<WIDE>(x + i, values);
        store<WIDE>(row + i, values);
#pragma unroll
        for (int k = 0; k < N; ++k) sum += values[k];
    }
    const float mean = block_sum(sum) / static_cast<float>(width);
    float squares = 0.0f;
    FOR_ROW(i, N, width) {
        float values[N];
        load<WIDE>(row + i, values);
#pragma unroll
        for (int k = 0; k < N; ++k) squares += (values[k] - mean) * (values[k] - mean);
    }
    const float variance = block_sum(squares) / static_cast<float>(width);
    const float factor = 1.0f / sqrtf(variance + eps);
    FOR_ROW(i, N, width) {
        float values[N], scales[N], shifts[N];
        load<WIDE>(row + i, values);
        load<WIDE>(scale + i, scales);
        load<WIDE>(shift + i, shifts);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            values[k] = (values[k] - mean) * factor * scales[k] + shifts[k];
        }
        store<WIDE>(out + i, values);
    }
}

template <typename In, typename Out>
__device__ __forceinline__ void modulate(const In* x, const float* scale, const float* shift,
                                         const long long* index, Out* out, long long tokens,
                                         long long width, float eps) {
    const long long place = blockIdx.x, row = row_of(index, place, tokens);
    const bool wide = width % 4 == 0 && aligned(x) && aligned(scale) && aligned(shift) &&
                      aligned(out);
    x += place * width;
    out += place * width;
    scale += row * width;
    shift += row * width;
    if (wide) {
        modulate_row<true>(x, scale, shift, out, static_cast<int>(width), eps);
    } else {
        modulate_row<false>(x, scale, shift, out, static_cast<int>(width), eps);
    }
}

#define MODULATE(NAME, IN, OUT)                                                     \
    extern "C" __global__ void __launch_bounds__(256)                               \
        NAME(const IN* __restrict__ x, const float* __restrict__ scale,             \
             const float* __restrict__ shift, const long long* __restrict__ index,  \
             OUT* __restrict__ out, long long tokens, long long width, float eps) { \
        modulate(x, scale, shift, index, out, tokens, width, eps);                  \
    }
MODULATE(modulate_f32_f32, float, float)
MODULATE(modulate_f32_bf16, float, bf16)
MODULATE(modulate_bf16_f32, bf16, float)
MODULATE(modulate_bf16_bf16, bf16, bf16)
