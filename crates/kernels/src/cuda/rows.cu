// Work with one row of f32 vectors for every token; one block for each token.

// hidden[b, t, :] += value[b, t, :] * gate[row]
template <bool WIDE, typename Hidden, typename Value>
__device__ __forceinline__ void gate_row(Hidden* hidden, const Value* value, const float* gate,
                                         int width) {
    constexpr int N = WIDE ? 4 : 1;
    FOR_ROW(i, N, width) {
        float sums[N], values[N], gates[N];
        load<WIDE>(hidden + i, sums);
        load<WIDE>(value + i, values);
        load<WIDE>(gate + i, gates);
#pragma unroll
        for (int k = 0; k < N; ++k) sums[k] += values[k] * gates[k];
        store<WIDE>(hidden + i, sums);
    }
}

template <typename Hidden, typename Value>
__device__ __forceinline__ void add_gated(Hidden* hidden, const Value* value, const float* gate,
                                          const long long* index, long long tokens,
                                          long long width) {
    const long long place = blockIdx.x;
    const bool wide = width % 4 == 0 && aligned(hidden) && aligned(value) && aligned(gate);
    hidden += place * width;
    value += place * width;
    gate += row_of(index, place, tokens) * width;
    if (wide) {
        gate_row<true>(hidden, value, gate, static_cast<int>(width));
    } else {
        gate_row<false>(hidden, value, gate, static_cast<int>(width));
    }
}

#define ADD_GATED(NAME, HIDDEN, VALUE)                                              \
    extern "C" __global__ void __launch_bounds__(256)                               \
        NAME(HIDDEN* __restrict__ hidden, const VALUE* __restrict__ value,          \
             const float* __restrict__ gate, const long long* __restrict__ index,   \
             long long tokens, long long width) {                                   \
        add_gated(hidden, value, gate, index, tokens, width);                       \
    }
ADD_GATED(add_gated_f32_f32, float, float)
ADD_GATED(add_gated_f32_bf16, float, bf16)
ADD_GATED(add_gated_bf16_f32, bf16, float)
ADD_GATED(add_gated_bf16_bf16, bf16, bf16)

// out[b, t, :] = rows[row] + table
template <bool WIDE, typename Out>
__device__ __forceinline__ void spread_row(const float* row, const float* table, Out* out,
                                           int width) {
    constexpr int N = WIDE ? 4 : 1;
    FOR_ROW(i, N, width) {
        float values[N], added[N];
        load<WIDE>(row + i, values);
        load<WIDE>(table + i, added);
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] += added[k];
        store<WIDE>(out + i, values);
    }
}

template <typename Out>
__device__ __forceinline__ void spread_rows(const float* rows, const float* table,
                                            const long long* index, Out* out, long long tokens,
                                            long long width) {
    const long long place = blockIdx.x;
    const bool wide = width % 4 == 0 && aligned(rows) && aligned(table) && aligned(out);
    rows += row_of(index, place, tokens) * width;
    out += place * width;
    if (wide) {
        spread_row<true>(rows, table, out, static_cast<int>(width));
    } else {
        spread_row<false>(rows, table, out, static_cast<int>(width));
    }
}

#define SPREAD_ROWS(NAME, OUT)                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                   \
        NAME(const float* __restrict__ rows, const float* __restrict__ table,           \
             const long long* __restrict__ index, OUT* __restrict__ out,                \
             long long tokens, long long width) {                                       \
        spread_rows(rows, table, index, out, tokens, width);                            \
    }
SPREAD_ROWS(spread_rows_f32, float)
SPREAD_ROWS(spread_rows_bf16, bf16)
