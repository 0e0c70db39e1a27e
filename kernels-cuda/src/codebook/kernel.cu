// The code of each row: L2-normalise, then the argmax of the inner product with every code. The scores never reach memory.
//
//   score[r, v] = sum_c (x[r, c] / max(|x[r]|, eps)) code[v, c],   index[r] = the first v of the largest score
//
// Tokens are the product's output and must be the original's, so sums are plain f32, one chain of fused multiply-adds in
// the order of c (compiled with --fmad=false: what is fused here is written as fmaf), and the margin to the second
// best comes with the index: where it is below the rounding of a score, the choice is the arithmetic's and not the model's.
//
// What bounds it: f32 arithmetic. 512 rows against 32768 codes of 16 are 0.27 G multiply-adds, which tensor cores would do
// in a microsecond were bf16 or tf32 exact enough; they are not. An A100's f32 lanes need 28 us at best. Codes are 2 MiB and
// live in L2. A lane holds its rows in registers and all lanes of a warp read the same code from shared memory, a broadcast, one
// 16-byte read for four multiply-adds a row: with two rows a lane 8 FMA to a load, and some 9 more instructions a code and row
// for the running best and second. At C = 16 that is 64 FMA of 101 issues for two codes: the lanes bound it on an A100, which
// has 64 an SM, and issue at 63 % of the lanes on the others, which have 128. Modelled figures, see `report`.
//
// Budget. C = 16: 32 registers of rows, two codes' sums at a time, about 64 in all; C = 64 has one row a lane. Codes in two
// shared tiles of 64: 8 KiB at C = 16, 32 KiB at C = 64, one being filled by cp.async while the other is read.
//
// The reduction has no atomics and one result whatever the order of blocks: the grid is (tiles of rows) x (slices of codes), each
// block writes a candidate a row, and a second kernel merges the slices. Within a block four warps take every fourth code and
// merge through shared memory. Merging compares (score, then lower index), which is associative, so neither split shows.
//
// Rejected. Lanes over codes and rows in shared memory (a tree over 32 lanes for each row, 10 shuffles a row and tile); one
// kernel with the last block merging by a counter (an atomic, a fence, and a counter to reset for every replay of
// a graph, to save one launch of two microseconds).
//
// codebook_partial_cN: C <= N, N in {16, 32, 64}; missing columns count as zero.
//   x [rows, c] f32, rows x_stride apart; codes [v, c] f32, contiguous, any alignment (16 bytes and c % 4 == 0 are fast)
//   candidates [slices, rows] of {f32 best, f32 second, i32 index, 0}, 16-byte aligned, slices = gridDim.y
//   slice_codes: codes of a slice, a multiple of 64; gridDim.y * slice_codes >= v. eps: 1e-12, as torch normalises
// codebook_merge: index [rows] i32; margin [rows] f32, may be null. A row with a NaN has index 0 and a NaN margin.
#include "tile.cuh"

struct Candidate {
    float best, second;
    int index;

    __device__ __forceinline__ void offer(float score, int at) {
        if (score > best) {
            second = best;
            best = score;
            index = at;
        } else {
            second = fmaxf(second, score);
        }
    }

    // The same for another candidate over other codes: a tie goes to the lower index.
    __device__ __forceinline__ void merge(const Candidate& other) {
        bool theirs = other.best > best || (other.best == best && other.index < index);
        second = theirs ? fmaxf(best, other.second) : fmaxf(second, other.best);
        best = theirs ? other.best : best;
        index = theirs ? other.index : index;
    }
};

template <int C, int ROWS>  // ROWS a lane
__device__ __forceinline__ void codebook_partial(const float* x, const float* codes, float4* candidates, int rows,
                                                 int c, int v, i64 x_stride, int slice_codes, float eps) {
    constexpr int WARPS = 4, THREADS = WARPS * WARP, TILE = 64;
    __shared__ __align__(16) float tiles[2][TILE][C];
    __shared__ float4 merged[WARPS - 1][ROWS][WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    int first_code = blockIdx.y * slice_codes;
    int count = max(0, min(slice_codes, v - first_code));
    codes += i64(first_code) * c;
    bool wide = c % 4 == 0 && aligned(codes, 0);

    // Columns that no code has: zero once, and no copy touches them.
    if (c < C)
#pragma unroll 1
        for (int i = threadIdx.x; i < 2 * TILE * C; i += THREADS)
            if (i % C >= c) tiles[0][0][i] = 0.0f;

    // Threads walk the padded tile, whose width is known, so that no copy pays for a division.
    auto load_tile = [&](int tile) {
        int in_tile = min(TILE, count - tile * TILE);
        u32 to = shared_address(&tiles[tile % 2][0][0]);
        const float* from = codes + i64(tile) * TILE * c;
        if (wide) {
#pragma unroll
            for (int k = 0; k < TILE * C / 4 / THREADS; ++k) {
                int i = threadIdx.x + k * THREADS, row = i / (C / 4), column = i % (C / 4) * 4;
                if (row < in_tile && column < c) copy_async_16(to + i * 16, from + row * c + column, 16);
            }
        } else {
#pragma unroll 1
            for (int i = threadIdx.x; i < in_tile * C; i += THREADS) {
                int row = i / C, column = i % C;
                if (column < c) copy_async_4(to + i * 4, from + row * c + column, 4);
            }
        }
        commit_copies();
    };
    int tile_count = (count + TILE - 1) / TILE;
    if (tile_count > 0) load_tile(0);

    float row[ROWS][C];
    Candidate candidate[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        int at = (blockIdx.x * ROWS + r) * WARP + lane;
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < C; ++i) {
            row[r][i] = at < rows && i < c ? x[at * x_stride + i] : 0.0f;
            squares = fmaf(row[r][i], row[r][i], squares);
        }
        float norm = fmaxf(__fsqrt_rn(squares), eps);
        if (squares != squares) norm = squares;  // fmaxf would hide a NaN
#pragma unroll
        for (int i = 0; i < C; ++i) row[r][i] = __fdiv_rn(row[r][i], norm);
        candidate[r] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, 0x7fffffff};
    }

#pragma unroll 1
    for (int tile = 0; tile < tile_count; ++tile) {
        wait_copies<0>();
        __syncthreads();  // this tile is here for all, and all are done with the one that is filled next
        if (tile + 1 < tile_count) load_tile(tile + 1);
        int in_tile = min(TILE, count - tile * TILE);
#pragma unroll 2
        for (int j = warp; j < in_tile; j += WARPS) {
            float score[ROWS] = {};
#pragma unroll
            for (int i = 0; i < C; i += 4) {
                float4 q = *reinterpret_cast<const float4*>(&tiles[tile % 2][j][i]);
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    score[r] = fmaf(row[r][i], q.x, score[r]);
                    score[r] = fmaf(row[r][i + 1], q.y, score[r]);
                    score[r] = fmaf(row[r][i + 2], q.z, score[r]);
                    score[r] = fmaf(row[r][i + 3], q.w, score[r]);
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r) candidate[r].offer(score[r], first_code + tile * TILE + j);
        }
    }

    if (warp > 0)
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            merged[warp - 1][r][lane] =
                make_float4(candidate[r].best, candidate[r].second, __int_as_float(candidate[r].index), 0.0f);
    __syncthreads();
    if (warp > 0) return;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int w = 0; w < WARPS - 1; ++w) {
            float4 q = merged[w][r][lane];
            candidate[r].merge({q.x, q.y, __float_as_int(q.z)});
        }
        int at = (blockIdx.x * ROWS + r) * WARP + lane;
        if (at < rows)
            candidates[i64(blockIdx.y) * rows + at] =
                make_float4(candidate[r].best, candidate[r].second, __int_as_float(candidate[r].index), 0.0f);
    }
}

#define CODEBOOK_PARTIAL(NAME, C, ROWS)                                                                                \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        NAME(const float* x, const float* codes, float4* candidates, int rows, int c, int v, i64 x_stride,            \
             int slice_codes, float eps) {                                                                            \
        codebook_partial<C, ROWS>(x, codes, candidates, rows, c, v, x_stride, slice_codes, eps);                      \
    }

CODEBOOK_PARTIAL(codebook_partial_c16, 16, 2)
CODEBOOK_PARTIAL(codebook_partial_c32, 32, 2)
CODEBOOK_PARTIAL(codebook_partial_c64, 64, 1)

extern "C" __global__ void __launch_bounds__(128)
    codebook_merge(const float4* candidates, int* index, float* margin, int rows, int slices) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= rows) return;
    Candidate candidate = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, 0x7fffffff};
    for (int slice = 0; slice < slices; ++slice) {
        float4 q = candidates[i64(slice) * rows + at];
        candidate.merge({q.x, q.y, __float_as_int(q.z)});
    }
    bool found = candidate.index != 0x7fffffff;
    index[at] = found ? candidate.index : 0;
    if (margin) margin[at] = found ? candidate.best - candidate.second : __int_as_float(0x7fffffff);
}
