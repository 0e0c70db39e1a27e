// Layer norm and RMS norm of rows, with affine weights and adaLN modulation in the same pass:
//
//   n = (x - mean) / sqrt(var + eps)        or, for RMS,  n = x / sqrt(mean(x^2) + eps)
//   y = (n * weight + bias) * (1 + scale[m]) + shift[m],   m = (row / modulation_div) % modulation_rows
//
// What bounds it: memory. A row is read once and written once, some ten operations an element; in the time that an A100 moves an f32
// element in and out it could do 76. So everything is about wide loads and enough of them in flight.
//
// Budget: a thread keeps up to 16 elements of its row in registers, as 4 groups of 4 (16-byte loads for f32, 8-byte for
// bf16), all issued before the first is used. With the row in registers the variance is the two-pass one, sum((x - mean)^2),
// exact where sum(x^2) - mean^2 cancels, at no further traffic. A warp holds 512 elements, a block of 128 threads 2048; what
// is beyond that is read again from L2 by the same loops. Four rows a block for the warp version, no barrier; one row a
// block for the other, with four floats of shared memory a reduction and two barriers.
//
// Rejected: Welford (a division an element and a serial chain, to save a pass over registers that costs nothing);
// one warp for all widths (256 rows of 1536 leave most of the GPU idle); 8 groups a thread
// (twice the code, and the compiler keeps addresses rather than data); staging the row in shared memory
// (the registers are free here).
//
// Arguments:
//   x, y             [rows, cols], rows x_stride and y_stride elements apart; y may be x
//   weight, bias     [cols] f32, either may be null (then 1 and 0)
//   scale, shift     [modulation_rows, cols] f32, rows modulation_stride apart, either may be null (then 0)
//   modulation_div   rows that share a modulation row: rows of one image for one modulation an image, 1 for a table by position
//   eps              added to the variance; rms: 1 leaves the mean in
// Any cols >= 1 and any alignment of the element type work. Fast are widths that 4 divides in rows that are 16-byte
// aligned (8-byte for bf16), which all models have; others take a path of single elements.
#include "tile.cuh"

// The sum over the threads of a row, in every one of them. `partial` is used when a row has more than one warp.
template <int THREADS> __device__ __forceinline__ float row_sum(float x, float* partial) {
    x = warp_sum(x);
    if (THREADS == WARP) return x;
    int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0) partial[warp] = x;
    __syncthreads();
    x = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / WARP; ++i) x += partial[i];
    return x;
}

template <typename In, typename Out, int THREADS, int VEC, int HELD>
__device__ __forceinline__ void normalise_row(const In* x, Out* y, const float* weight, const float* bias,
                                              const float* scale, const float* shift, int cols, float eps, int rms,
                                              float (*partial)[THREADS / WARP]) {
    constexpr int STEP = THREADS * VEC;    // columns between two groups of a thread
    constexpr int REACH = HELD * STEP;     // columns that the registers cover
    int first = threadIdx.x % THREADS * VEC;

    Group<VEC> held[HELD];
    float mean = 0.0f;
#pragma unroll
    for (int i = 0; i < HELD; ++i)
        if (first + i * STEP < cols) held[i] = load_group<VEC>(x + first + i * STEP);

    // Runs `visit` over every group of this thread, from the registers as far as they reach and then from memory.
    auto each_group = [&](auto visit) {
#pragma unroll
        for (int i = 0; i < HELD; ++i)
            if (first + i * STEP < cols) visit(held[i], first + i * STEP);
#pragma unroll 1
        for (int column = first + REACH; column < cols; column += STEP) visit(load_group<VEC>(x + column), column);
    };

    if (!rms) {
        float sum = 0.0f;
        each_group([&](const Group<VEC>& g, int) {
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum += g.v[j];
        });
        mean = row_sum<THREADS>(sum, partial[0]) / float(cols);
    }

    float squares = 0.0f;
    each_group([&](const Group<VEC>& g, int) {
#pragma unroll
        for (int j = 0; j < VEC; ++j) squares += (g.v[j] - mean) * (g.v[j] - mean);
    });
    float inverse = rsqrtf(row_sum<THREADS>(squares, partial[1]) / float(cols) + eps);

    each_group([&](Group<VEC> g, int column) {
        Group<VEC> a = weight ? load_group<VEC>(weight + column) : Group<VEC>::filled(1.0f);
        Group<VEC> b = bias ? load_group<VEC>(bias + column) : Group<VEC>::filled(0.0f);
        Group<VEC> c = scale ? load_group<VEC>(scale + column) : Group<VEC>::filled(0.0f);
        Group<VEC> d = shift ? load_group<VEC>(shift + column) : Group<VEC>::filled(0.0f);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            float n = (g.v[j] - mean) * inverse;
            g.v[j] = (n * a.v[j] + b.v[j]) * (1.0f + c.v[j]) + d.v[j];
        }
        store_group<VEC>(y + column, g);
    });
}

template <typename In, typename Out, int THREADS>
__device__ __forceinline__ void layer_norm(const In* x, Out* y, const float* weight, const float* bias,
                                           const float* scale, const float* shift, int rows, int cols, i64 x_stride,
                                           i64 y_stride, int modulation_div, int modulation_rows,
                                           i64 modulation_stride, float eps, int rms) {
    __shared__ float partial[2][THREADS / WARP];
    int row = blockIdx.x * (blockDim.x / THREADS) + threadIdx.x / THREADS;
    if (row >= rows) return;  // a whole warp, or a whole block where there are barriers
    i64 modulation = i64((row / modulation_div) % modulation_rows) * modulation_stride;
    bool wide = cols % 4 == 0 && aligned(x, x_stride) && aligned(y, y_stride) && aligned(weight, 0) &&
                aligned(bias, 0) && aligned(scale, modulation_stride) && aligned(shift, modulation_stride);
    x += row * x_stride;
    y += row * y_stride;
    if (scale) scale += modulation;
    if (shift) shift += modulation;
    if (wide)
        normalise_row<In, Out, THREADS, 4, 4>(x, y, weight, bias, scale, shift, cols, eps, rms, partial);
    else
        normalise_row<In, Out, THREADS, 1, 1>(x, y, weight, bias, scale, shift, cols, eps, rms, partial);
}

#define LAYER_NORM(NAME, IN, OUT, THREADS, BLOCK)                                                                      \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                               \
        NAME(const IN* x, OUT* y, const float* weight, const float* bias, const float* scale, const float* shift,     \
             int rows, int cols, i64 x_stride, i64 y_stride, int modulation_div, int modulation_rows,                 \
             i64 modulation_stride, float eps, int rms) {                                                             \
        layer_norm<IN, OUT, THREADS>(x, y, weight, bias, scale, shift, rows, cols, x_stride, y_stride,                \
                                     modulation_div, modulation_rows, modulation_stride, eps, rms);                   \
    }

LAYER_NORM(layer_norm_f32_f32_warp, float, float, 32, 128)
LAYER_NORM(layer_norm_f32_f32_block, float, float, 128, 128)
LAYER_NORM(layer_norm_f32_bf16_warp, float, bf16, 32, 128)
LAYER_NORM(layer_norm_f32_bf16_block, float, bf16, 128, 128)
LAYER_NORM(layer_norm_bf16_bf16_warp, bf16, bf16, 32, 128)
LAYER_NORM(layer_norm_bf16_bf16_block, bf16, bf16, 128, 128)
LAYER_NORM(layer_norm_bf16_f32_warp, bf16, float, 32, 128)
LAYER_NORM(layer_norm_bf16_f32_block, bf16, float, 128, 128)
