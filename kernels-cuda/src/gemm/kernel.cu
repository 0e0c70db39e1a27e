// Linear layers on tensor cores, with everything that follows a linear layer in the models in the same kernel:
//
//   C[m, n] = residual[m, n] + gate[g(m), n] * act(sum_k A[m, k] W[n, k] + bias[n]),   g(m) = (m / gate_div) % gate_rows
//
// A [M, K] and W [N, K] bf16 with K contiguous (W as PyTorch stores a Linear), sums in f32, C f32 or bf16. gate, bias and
// residual may each be null.
//
// What bounds it. A block multiplies 128 x 128 outputs over 32 of K by mma.sync m16n8k16. A tile of K is 128*128*32 = 524288
// multiply-adds, 512 clocks of the 1024 that an A100's SM does a clock. Against it stand 16 KiB written to shared memory (128
// wavefronts of 128 bytes) and what the warps read from it. Four warps of 64 x 64 read each 8 ldmatrix.x4 a k16 step,
// 4 * 2 * 8 * 4 = 256 wavefronts: 384 in all, under the tensor cores' 512. (Eight warps of 64 x 32 read 6 for half
// the outputs, 384, so 512 in all: a tie with the tensor cores, and in practice worse than one.) Both are modelled
// figures, see `report`. Small M leaves SMs without a block; the 64 x 64 tile makes four times the blocks at
// 128 + 64 = 192 wavefronts for 128 clocks of tensor work, and the launch rule weighs the two.
//
// Budget. 128 threads a block. 64 x 64 outputs a warp are 128 accumulators a thread; fragments 16 + 16; the rest is
// addresses: under 255 without a spill, and 2 blocks an SM by registers. Shared memory: a stage is (128 + 128) * 64
// bytes = 16 KiB, three stages 48 KiB, what every GPU gives without asking and twice what fits the 100 KB of an RTX 4090's SM.
// The small tile: 32 accumulators, 8 KiB a stage, four stages. Two K tiles are in flight while one is multiplied.
//
// Choices. Rows of a tile are 64 bytes, two to a line of the banks; the swizzle XORs the 16-byte chunk with bits 1 and 2 of the
// row, so neither cp.async nor ldmatrix meets a bank twice (the emulator counts this). One barrier an iteration: the
// stage that is refilled is the one that all warps left at the barrier before. Remainders: rows beyond M or N and chunks
// beyond K are copies of zero bytes read, which write zeros, so the loop has no special case and the epilogue just
// does not store. Blocks walk the output in bands of 8 tile rows, so that a wave shares A and W in L2.
//
// Rejected. 64-deep tiles (128-byte rows, a simpler swizzle, half the barriers, but 32 KiB a stage: two stages only on a 4090).
// Storing C from the fragments: no trip through shared memory, but 128 copies of the epilogue's code a thread (1.3 MB
// of PTX against 0.2), 8-byte stores, and half-filled sectors in bf16.
// Reading A as f32 and rounding on the way: it takes registers that the copies do not, and the norm before it
// writes bf16 anyway. Split-K: for M below ~100 only, to come with the small-batch kernels.
//
// Arguments, beyond those above: lda, ldw, ldc, ldr (residual), ldg (gate) are row strides in elements. lda and ldw are multiples of 8, A and W
// 16-byte aligned; C, residual, bias and gate only need their elements' alignment (groups of four are moved where all allow it).
// residual may be C itself, and has its type. activation: 0 none, 1 SiLU, 2 GELU by tanh, 3 GELU by erf, 4 ReLU,
// 5 x * sigmoid(1.702 x). Grid: (tiles of N) * (tiles of M), one-dimensional. Shared memory: STAGES * (BM + BN) * 64 bytes, dynamic.
#include "tile.cuh"

template <int BM_, int BN_, int STAGES_> struct Tile {
    enum : int {
        BM = BM_,
        BN = BN_,
        BK = 32,
        STAGES = STAGES_,
        WARPS_M = 2,
        WARPS_N = 2,
        THREADS = WARPS_M * WARPS_N * WARP,
        WM = BM / WARPS_M,
        WN = BN / WARPS_N,
        MT = WM / 16,           // m16 fragments of a warp
        NT = WN / 8,            // n8 fragments of a warp
        CHUNKS = BK * 2 / 16,   // 16-byte chunks of a row
        STAGE_BYTES = (BM + BN) * BK * 2,
    };
};

// Starts the copies of rows [row0, row0 + ROWS) x columns [k0, k0 + 32) of a matrix of `rows` x `k`.
template <typename T, int ROWS>
__device__ __forceinline__ void load_tile(u32 shared, const bf16* matrix, i64 ld, int row0, int rows, int k0, int k) {
#pragma unroll
    for (int i = 0; i < ROWS * T::CHUNKS / T::THREADS; ++i) {
        int linear = threadIdx.x + i * T::THREADS;
        int row = linear / T::CHUNKS, chunk = linear % T::CHUNKS;
        int column = k0 + chunk * 8;
        int bytes = row0 + row < rows ? max(0, min(16, (k - column) * 2)) : 0;
        // The address of a copy that reads nothing must still be one of the matrix.
        const bf16* from = matrix + (bytes > 0 ? (row0 + row) * ld + column : 0);
        copy_async_16(shared + swizzled<T::CHUNKS>(row, chunk), from, bytes);
    }
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal_approx(1.0f + exp2_approx(x * -1.4426950409f)); }

__device__ __forceinline__ float activate(float x, int activation) {
    switch (activation) {
    case 1: return x * sigmoid(x);
    // 0.5 (1 + tanh(u)) = sigmoid(2u), which has no cancellation where tanh nears -1.
    case 2: return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    case 3: return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    case 4: return fmaxf(x, 0.0f);
    case 5: return x * sigmoid(1.702f * x);
    default: return x;
    }
}

template <typename Out> struct Epilogue {
    Out* c;
    const Out* residual;
    const float* bias;
    const float* gate;
    int m, n;
    i64 ldc, ldr, ldg;
    int gate_div, gate_rows, activation;
    bool wide;

    // Finishes and stores VEC columns of one row, all of them inside the matrix.
    template <int VEC> __device__ __forceinline__ void store(int row, int column, Group<VEC> v) const {
        Group<VEC> b = bias ? load_group<VEC>(bias + column) : Group<VEC>::filled(0.0f);
        Group<VEC> g = Group<VEC>::filled(1.0f), r = Group<VEC>::filled(0.0f);
        if (gate) g = load_group<VEC>(gate + i64((row / gate_div) % gate_rows) * ldg + column);
        if (residual) r = load_group<VEC>(residual + row * ldr + column);
#pragma unroll
        for (int j = 0; j < VEC; ++j) v.v[j] = r.v[j] + g.v[j] * activate(v.v[j] + b.v[j], activation);
        store_group<VEC>(c + row * ldc + column, v);
    }

    // Four columns, as many of them as there are.
    __device__ __forceinline__ void store_four(int row, int column, float4 v) const {
        if (row >= m || column >= n) return;
        if (wide && column + 4 <= n) {
            store<4>(row, column, {v.x, v.y, v.z, v.w});
        } else {
#pragma unroll 1
            for (int j = 0; j < 4 && column + j < n; ++j)
                store<1>(row, column + j, {j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w});
        }
    }
};

template <typename T, typename Out>
__device__ __forceinline__ void gemm(const bf16* a, const bf16* w, i64 lda, i64 ldw, int k, const Epilogue<Out>& epilogue) {
    extern __shared__ __align__(128) unsigned char shared_bytes[];
    u32 shared = shared_address(shared_bytes);
    int m = epilogue.m, n = epilogue.n;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int warp_m = warp / T::WARPS_N * T::WM, warp_n = warp % T::WARPS_N * T::WN;

    // Block order: bands of BAND tile rows, down a band's column before the next column.
    constexpr int BAND = 8;
    int tiles_m = (m + T::BM - 1) / T::BM, tiles_n = (n + T::BN - 1) / T::BN;
    int band = blockIdx.x / (BAND * tiles_n), in_band = blockIdx.x % (BAND * tiles_n);
    int band_rows = min(BAND, tiles_m - band * BAND);
    int row0 = (band * BAND + in_band % band_rows) * T::BM, col0 = in_band / band_rows * T::BN;

    int k_tiles = (k + T::BK - 1) / T::BK;
    auto load_stage = [&](int tile) {
        if (tile < k_tiles) {
            u32 stage = shared + tile % T::STAGES * T::STAGE_BYTES;
            load_tile<T, T::BM>(stage, a, lda, row0, m, tile * T::BK, k);
            load_tile<T, T::BN>(stage + T::BM * T::BK * 2, w, ldw, col0, n, tile * T::BK, k);
        }
        commit_copies();  // an empty group too, so that the count of groups is the count of tiles
    };

    float sum[T::MT][T::NT][4] = {};
#pragma unroll
    for (int tile = 0; tile < T::STAGES - 1; ++tile) load_stage(tile);

#pragma unroll 1
    for (int tile = 0; tile < k_tiles; ++tile) {
        wait_copies<T::STAGES - 2>();
        __syncthreads();
        load_stage(tile + T::STAGES - 1);

        u32 stage_a = shared + tile % T::STAGES * T::STAGE_BYTES;
        u32 stage_w = stage_a + T::BM * T::BK * 2;
#pragma unroll
        for (int step = 0; step < T::BK / 16; ++step) {
            u32 fa[T::MT][4], fw[T::NT / 2][4];
            // A: matrices are (rows 0-7, 8-15) x (columns 0-7), then the same rows x (columns 8-15).
#pragma unroll
            for (int i = 0; i < T::MT; ++i)
                load_matrices(fa[i], stage_a + swizzled<T::CHUNKS>(warp_m + i * 16 + lane % 16, step * 2 + lane / 16));
            // W: two n8 fragments at once: (rows 0-7) x (both k8 halves), then rows 8-15.
#pragma unroll
            for (int j = 0; j < T::NT / 2; ++j)
                load_matrices(fw[j], stage_w + swizzled<T::CHUNKS>(warp_n + j * 16 + lane / 16 * 8 + lane % 8,
                                                                   step * 2 + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < T::MT; ++i)
#pragma unroll
                for (int j = 0; j < T::NT; ++j) mma(sum[i][j], fa[i], fw[j / 2][j % 2 * 2], fw[j / 2][j % 2 * 2 + 1]);
        }
    }

    // The sums pass through shared memory, 16 rows of a warp at a time: from fragments, where a lane has two neighbours,
    // to rows, where it has four and a warp has whole lines. The stages are free once all warps are here.
    wait_copies<0>();
    __syncthreads();
    constexpr int PITCH = T::WN + 8;  // 32 bytes more than a multiple of the banks: fragment stores do not collide
    static_assert(4 * 16 * PITCH * 4 <= T::STAGES * T::STAGE_BYTES, "the epilogue's rows do not fit the stages");
    float* rows = reinterpret_cast<float*>(shared_bytes) + warp * 16 * PITCH;
#pragma unroll
    for (int i = 0; i < T::MT; ++i) {
#pragma unroll
        for (int j = 0; j < T::NT; ++j) {
            float* at = rows + lane / 4 * PITCH + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(at) = make_float2(sum[i][j][0], sum[i][j][1]);
            *reinterpret_cast<float2*>(at + 8 * PITCH) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
        __syncwarp();
        constexpr int LANES = T::WN / 4;  // lanes of a row
#pragma unroll 1
        for (int r = lane / LANES; r < 16; r += WARP / LANES)
            epilogue.store_four(row0 + warp_m + i * 16 + r, col0 + warp_n + lane % LANES * 4,
                                *reinterpret_cast<float4*>(rows + r * PITCH + lane % LANES * 4));
        __syncwarp();
    }
}

#define GEMM(NAME, OUT, BM, BN, STAGES)                                                                                \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        NAME(const bf16* a, const bf16* w, OUT* c, const float* bias, const float* gate, const OUT* residual, int m,  \
             int n, int k, i64 lda, i64 ldw, i64 ldc, i64 ldr, i64 ldg, int gate_div, int gate_rows, int activation) { \
        bool wide = aligned(c, ldc) && aligned(residual, ldr) && aligned(bias, 0) && aligned(gate, ldg);              \
        gemm<Tile<BM, BN, STAGES>, OUT>(a, w, lda, ldw, k,                                                            \
                                        {c, residual, bias, gate, m, n, ldc, ldr, ldg, gate_div, gate_rows,           \
                                         activation, wide});                                                          \
    }

GEMM(gemm_bf16_f32_128x128x32, float, 128, 128, 3)
GEMM(gemm_bf16_bf16_128x128x32, bf16, 128, 128, 3)
GEMM(gemm_bf16_f32_64x64x32, float, 64, 64, 4)
GEMM(gemm_bf16_bf16_64x64x32, bf16, 64, 64, 4)
