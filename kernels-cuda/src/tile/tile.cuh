// The few words that all kernels are written in: bf16 as 16-bit patterns, fragments of m16n8k16, asynchronous copies
// and the swizzle. By inline PTX, so that no CUDA header is needed and every instruction that a kernel uses can be
// named in its essay. Destination first.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// A bf16 as its bits: only conversions and mma look inside.
struct bf16 {
    u16 bits;
};

enum : int { WARP = 32 };  // an enumerator, since NVRTC gives a constant object a place in global memory
#define NEGATIVE_INFINITY __int_as_float(0xff800000)

// ---- numbers -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

__device__ __forceinline__ float low_f32(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_f32(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// Rounds to nearest even; `low` goes to the lower address.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return bf16{u16(pack_bf16(x, 0.0f))}; }

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- memory --------------------------------------------------------------------------------------------------------

// Whether groups of four can be read from every row of a matrix. A null pointer is aligned.
template <typename T> __device__ __forceinline__ bool aligned(const T* pointer, i64 stride) {
    return u64(pointer) % (4 * sizeof(T)) == 0 && stride % 4 == 0;
}

__device__ __forceinline__ u32 shared_address(const void* pointer) { return u32(__cvta_generic_to_shared(pointer)); }

// Copies 16 bytes past the registers and L1, of which the last 16 - `bytes` are written as zero and not read.
__device__ __forceinline__ void copy_async_16(u32 shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy_async_4(u32 shared, const void* global, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's youngest groups are in flight. Other threads' copies need a barrier too.
template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where 16-byte chunk `chunk` of row `row` lies in a shared tile of `CHUNKS` chunks a row, in bytes.
//
// Eight rows at one chunk are what one phase of ldmatrix reads, and unswizzled they share banks. The XOR takes as many
// row bits as make those eight chunks fall on the eight 16-byte columns of the banks.
template <int CHUNKS> __device__ __forceinline__ u32 swizzled(int row, int chunk) {
    static_assert(CHUNKS % 8 == 0 || CHUNKS % 8 == 4 || CHUNKS == 2, "no conflict-free swizzle for this row length");
    int key = CHUNKS % 8 == 0 ? row & 7 : CHUNKS % 8 == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
    return u32(row * CHUNKS + (chunk ^ key)) * 16;
}

// ---- groups: neighbouring elements of a row in f32, moved by one instruction -----------------------------------------

template <int VEC> struct Group {
    float v[VEC];

    __device__ __forceinline__ static Group filled(float x) {
        Group g;
#pragma unroll
        for (int i = 0; i < VEC; ++i) g.v[i] = x;
        return g;
    }
};

template <int VEC> __device__ __forceinline__ Group<VEC> load_group(const float* p) {
    Group<VEC> g;
    if constexpr (VEC == 4) {
        float4 q = *reinterpret_cast<const float4*>(p);
        g.v[0] = q.x, g.v[1] = q.y, g.v[2] = q.z, g.v[3] = q.w;
    } else {
        g.v[0] = *p;
    }
    return g;
}

template <int VEC> __device__ __forceinline__ Group<VEC> load_group(const bf16* p) {
    Group<VEC> g;
    if constexpr (VEC == 4) {
        uint2 q = *reinterpret_cast<const uint2*>(p);
        g.v[0] = low_f32(q.x), g.v[1] = high_f32(q.x), g.v[2] = low_f32(q.y), g.v[3] = high_f32(q.y);
    } else {
        g.v[0] = to_f32(*p);
    }
    return g;
}

template <int VEC> __device__ __forceinline__ void store_group(float* p, const Group<VEC>& g) {
    if constexpr (VEC == 4)
        *reinterpret_cast<float4*>(p) = make_float4(g.v[0], g.v[1], g.v[2], g.v[3]);
    else
        *p = g.v[0];
}

template <int VEC> __device__ __forceinline__ void store_group(bf16* p, const Group<VEC>& g) {
    if constexpr (VEC == 4)
        *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(g.v[0], g.v[1]), pack_bf16(g.v[2], g.v[3]));
    else
        *p = from_f32<bf16>(g.v[0]);
}

// ---- tensor cores --------------------------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements; lane l names the row l % 8 of matrix l / 8 by its address.
__device__ __forceinline__ void load_matrices(u32 (&d)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&d)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(address)
                 : "memory");
}

// d[16, 8] += a[16, 16] b[16, 8]. With g = lane / 4 and t = lane % 4:
//   a: {row g, row g + 8} x {columns 2t, 2t + 1}, then the same with columns + 8;
//   b: rows 2t, 2t + 1 of column g, then rows + 8;
//   d: row g, columns 2t and 2t + 1, then row g + 8.
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- warps ---------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
