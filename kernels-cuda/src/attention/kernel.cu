// Attention, forward, in one pass over keys and values (FlashAttention-2): the scores never reach memory.
//
//   out[b, h, i, :] = sum_j softmax_j(scale * q[b, h, i] . k[b, h', j]) v[b, h', j, :],   h' = h / head_group
//
// over one or two segments of keys and values read one after the other. Two segments are what joint attention needs (text and
// image, or tokens and canvas, each from its own projection) with no concatenation in memory, and what a cache with a
// fresh tail needs. causal: query i sees keys up to position q_position + i, counted through both segments.
//
// What bounds it. A warp has 16 * MT query rows; for 64 keys at head_dim 64 a block of four warps does 2 * 64*MT * 64 * 64
// multiply-adds, 512 * MT clocks of the tensor cores of an A100's SM. Every warp reads all of K and V, 32 ldmatrix.x4 of 4
// wavefronts: 512 for the four, whatever MT is, beside 128 for the copies. And the softmax has to be issued: about 700
// slots a scheduler at MT = 1, 1140 at MT = 2. So one m16 fragment a warp is bound by issue (735) and shared memory (640) before the
// tensor cores (512), and two are near balance (1136, 640, 1024): hence MT = 2 at head_dim 64, where registers allow it
// and there are queries enough. The exponentials, 64*MT * 64 at 16 a clock, take 256 * MT clocks beside. Modelled, see
// `report`. On an RTX 4090 or 5090, with a quarter of the tensor rate an SM, all of them are bound by the tensor cores.
//
// Budget, d = 64, MT = 2: Q 32 registers, kept for the whole loop; output 64; scores 64, which turn into 32 of P in place of 64;
// K or V fragments 4 at a time: with addresses all of the 255.
// d = 128, MT = 1: Q 32, output 64, scores 32, and twice the fragments in flight: 230 to 239. Shared memory: two stages of
// 64 keys and values, 256 * d bytes each stage pair: 32 KiB at 64 (three blocks on the 100 KB SM of an RTX 4090), 64 KiB at 128.
//
// Choices. Scores stay in registers and become the A operand of P.V without a move between lanes: the accumulator layout of m16n8 is
// the operand layout of m16k16 when two n8 fragments are joined. exp2 with log2(e) folded into the scale. Q goes from global memory
// straight to fragments, once, while the first tile is in flight: no shared memory and no barrier for it. Keys beyond the
// end are zero by zero-filled copies and get -inf; only tiles that touch an end or the diagonal pay for the test. A row that sees no
// key at all gives zeros. One barrier a tile, as in the GEMM. Heads narrower than D (40 in 64, say) are padded by zero-filled copies.
//
// Rejected. Sharing K through registers between the two GEMMs (nothing to share); splitting keys over blocks (few queries against
// long caches: that is decoding, another kernel); 128 keys a tile (scores alone would be 128 registers at MT = 2).
//
// Arguments. q, out: [batch, heads, q_len, head_dim] by strides in elements (batch, head, row); k0 and v0 share strides, and so do
// k1 and v1; kv_len1 = 0 means that there is one segment. All bf16, head_dim contiguous, head_dim <= D, a multiple of 8 (so of 16 bytes).
// Every stride is a multiple of 8 and every pointer of 16 bytes. scale: above 0, usually
// 1 / sqrt(head_dim).
// Grid: (ceil(q_len / (64 MT)), heads, batch), 128 threads, 512 * D bytes of dynamic shared memory.
#include "tile.cuh"

struct Segment {
    const bf16 *k, *v;
    i64 row;
    int len;
};

enum : int { KEYS = 64, WARPS = 4, THREADS = WARPS * WARP };

// Starts the copies of keys [first, first + 64) of one matrix into a shared tile.
template <int D>
__device__ __forceinline__ void load_rows(u32 shared, const bf16* matrix, i64 stride, int first, int len, int head_dim) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < KEYS * CHUNKS / THREADS; ++i) {
        int linear = threadIdx.x + i * THREADS;
        int row = linear / CHUNKS, chunk = linear % CHUNKS;
        bool inside = first + row < len && chunk * 8 < head_dim;
        const bf16* from = matrix + (inside ? (first + row) * stride + chunk * 8 : 0);
        copy_async_16(shared + swizzled<CHUNKS>(row, chunk), from, inside ? 16 : 0);
    }
}

template <int D, int MT>
__device__ __forceinline__ void attention(const bf16* q, bf16* out, i64 q_row, i64 out_row, Segment s0, Segment s1,
                                          int q_len, int head_dim, int causal, int q_position, float scale) {
    constexpr int CHUNKS = D / 8, TILE_BYTES = KEYS * D * 2;
    extern __shared__ __align__(128) unsigned char shared_bytes[];
    u32 shared = shared_address(shared_bytes);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = lane / 4, pair = lane % 4 * 2;
    int block_row = blockIdx.x * (WARPS * 16 * MT), first_row = block_row + warp * 16 * MT;

    // Tiles of the first segment, then of the second; under a causal mask only up to the block's last query.
    int visible = s0.len + s1.len;
    if (causal) visible = max(0, min(visible, q_position + min(block_row + WARPS * 16 * MT, q_len)));
    int visible0 = min(visible, s0.len), visible1 = visible - visible0;
    int tiles0 = (visible0 + KEYS - 1) / KEYS, tiles = tiles0 + (visible1 + KEYS - 1) / KEYS;

    auto load_tile = [&](int tile) {
        bool second = tile >= tiles0;
        int first = (second ? tile - tiles0 : tile) * KEYS;
        u32 to = shared + tile % 2 * (2 * TILE_BYTES);
        i64 stride = second ? s1.row : s0.row;
        int len = second ? s1.len : s0.len;
        load_rows<D>(to, second ? s1.k : s0.k, stride, first, len, head_dim);
        load_rows<D>(to + TILE_BYTES, second ? s1.v : s0.v, stride, first, len, head_dim);
        commit_copies();
    };
    if (tiles > 0) load_tile(0);

    u32 fq[MT][D / 16][4];
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                int row = first_row + i * 16 + group + part % 2 * 8, column = step * 16 + part / 2 * 8 + pair;
                fq[i][step][part] =
                    row < q_len && column < head_dim ? *reinterpret_cast<const u32*>(q + row * q_row + column) : 0;
            }

    float sum[MT][D / 8][4] = {};
    float highest[MT][2], total[MT][2] = {};  // of rows group and group + 8; `total` of this lane's columns only
#pragma unroll
    for (int i = 0; i < MT; ++i) highest[i][0] = highest[i][1] = NEGATIVE_INFINITY;
    scale *= 1.4426950409f;

#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        wait_copies<0>();
        __syncthreads();
        if (tile + 1 < tiles) load_tile(tile + 1);
        u32 keys = shared + tile % 2 * (2 * TILE_BYTES), values = keys + TILE_BYTES;

        float score[MT][KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < D / 16; ++step)
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j) {
                u32 fk[4];  // keys 0-7 x both k8 halves, then keys 8-15
                load_matrices(fk, keys + swizzled<CHUNKS>(j * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
#pragma unroll
                for (int i = 0; i < MT; ++i) {
                    mma(score[i][2 * j], fq[i][step], fk[0], fk[1]);
                    mma(score[i][2 * j + 1], fq[i][step], fk[2], fk[3]);
                }
            }

        // The tile's first key in its segment, and counted through both.
        bool second = tile >= tiles0;
        int first = (second ? tile - tiles0 : tile) * KEYS, len = second ? s1.len : s0.len;
        int position = first + (second ? s0.len : 0);
        if (first + KEYS > len || (causal && position + KEYS - 1 > q_position + first_row)) {
#pragma unroll
            for (int i = 0; i < MT; ++i)
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        int key = j * 8 + pair + e % 2, row = first_row + i * 16 + group + e / 2 * 8;
                        bool seen = first + key < len && (!causal || position + key <= q_position + row);
                        if (!seen) score[i][j][e] = NEGATIVE_INFINITY;
                    }
        }

        u32 fp[MT][KEYS / 16][4];
#pragma unroll
        for (int i = 0; i < MT; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float high = highest[i][half];
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j)
                    high = fmaxf(high, fmaxf(score[i][j][2 * half], score[i][j][2 * half + 1]));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
                // While a row has seen no key, -inf - -inf must not arise.
                float base = high == NEGATIVE_INFINITY ? 0.0f : high * scale;
                float shrink = exp2_approx(highest[i][half] * scale - base);
                highest[i][half] = high;
                float row_total = 0.0f;
#pragma unroll
                for (int j = 0; j < KEYS / 8; ++j) {
                    float p0 = exp2_approx(score[i][j][2 * half] * scale - base);
                    float p1 = exp2_approx(score[i][j][2 * half + 1] * scale - base);
                    row_total += p0 + p1;
                    fp[i][j / 2][j % 2 * 2 + half] = pack_bf16(p0, p1);
                }
                total[i][half] = total[i][half] * shrink + row_total;
#pragma unroll
                for (int d = 0; d < D / 8; ++d) {
                    sum[i][d][2 * half] *= shrink;
                    sum[i][d][2 * half + 1] *= shrink;
                }
            }

#pragma unroll
        for (int j = 0; j < KEYS / 16; ++j)
#pragma unroll
            for (int d = 0; d < D / 16; ++d) {
                u32 fv[4];  // keys 0-15 of columns 0-7, then of columns 8-15, transposed on the way
                load_matrices_transposed(fv, values + swizzled<CHUNKS>(j * 16 + lane % 16, d * 2 + lane / 16));
#pragma unroll
                for (int i = 0; i < MT; ++i) {
                    mma(sum[i][2 * d], fp[i][j], fv[0], fv[1]);
                    mma(sum[i][2 * d + 1], fp[i][j], fv[2], fv[3]);
                }
            }
    }

#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float all = total[i][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            float inverse = all > 0.0f ? __fdiv_rn(1.0f, all) : all;  // no key: 0; a NaN stays one
            int row = first_row + i * 16 + group + half * 8;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) {
                int column = d * 8 + pair;
                if (row < q_len && column < head_dim)
                    *reinterpret_cast<u32*>(out + row * out_row + column) =
                        pack_bf16(sum[i][d][2 * half] * inverse, sum[i][d][2 * half + 1] * inverse);
            }
        }
}

#define ATTENTION(NAME, D, MT)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                                 \
        NAME(const bf16* q, const bf16* k0, const bf16* v0, const bf16* k1, const bf16* v1, bf16* out, int q_len,     \
             int kv_len0, int kv_len1, int head_dim, int head_group, i64 q_batch, i64 q_head, i64 q_row,              \
             i64 kv0_batch, i64 kv0_head, i64 kv0_row, i64 kv1_batch, i64 kv1_head, i64 kv1_row, i64 out_batch,       \
             i64 out_head, i64 out_row, int causal, int q_position, float scale) {                                    \
        int head = blockIdx.y, batch = blockIdx.z, kv_head = head / head_group;                                       \
        i64 at0 = batch * kv0_batch + kv_head * kv0_head, at1 = batch * kv1_batch + kv_head * kv1_head;               \
        attention<D, MT>(q + batch * q_batch + head * q_head, out + batch * out_batch + head * out_head, q_row,       \
                         out_row, {k0 + at0, v0 + at0, kv0_row, kv_len0}, {k1 + at1, v1 + at1, kv1_row, kv_len1},     \
                         q_len, head_dim, causal, q_position, scale);                                                 \
    }

ATTENTION(attention_d32_q64, 32, 1)
ATTENTION(attention_d64_q64, 64, 1)
ATTENTION(attention_d64_q128, 64, 2)
ATTENTION(attention_d96_q64, 96, 1)
ATTENTION(attention_d128_q64, 128, 1)
