// Kernels that are right, as a compiler writes them: undefined halves and phis, structures with padding, local arrays, calls.
struct Pad { char c; double d; short s; };
struct Big { float a[5]; int n; };
extern "C" __global__ void locals(const int* p, int* q) {
  int t = threadIdx.x; float acc[8];
  for (int i = 0; i < (p[t] & 7) + 1; i++) acc[i] = i * 2.f;
  q[t] = (int)acc[p[t] & 7];
}
__device__ __noinline__ double usepad(Pad x) { return x.d + x.c; }
extern "C" __global__ void pads(const int* p, int* q) {
  Pad x; x.c = p[threadIdx.x]; x.d = 2.0; q[threadIdx.x] = (int)usepad(x);
}
__device__ __noinline__ Big mk(int n) { Big b; b.n = n; for (int i = 0; i < 5; i++) if (i < n) b.a[i] = i; return b; }
extern "C" __global__ void bigs(const int* p, int* q) {
  Big b = mk((p[threadIdx.x] % 5) + 1); q[threadIdx.x] = (int)b.a[b.n - 1];
}
extern "C" __global__ void cond(const int* p, int* q) {
  int t = threadIdx.x; int v; bool have = false;
  if (p[t] % 3 == 0) { v = p[t] * 5; have = true; }
  __syncthreads();
  q[t] = have ? v : -1;
}
extern "C" __global__ void sw(const int* p, int* q) {
  int t = threadIdx.x; int v;
  switch (p[t] % 5) { case 0: v = 3; break; case 1: v = q[t]; break; case 2: v = t; break; default: v = 9; }
  q[t] = v;
}
extern "C" __global__ void reduce16(const int* p, int* q) {
  int t = threadIdx.x; int v = p[t];
  if (t < 16) { for (int o = 8; o; o >>= 1) v += __shfl_down_sync(0xffff, v, o); if (t == 0) q[0] = v; }
}
extern "C" __global__ void blockreduce(const int* p, int* q) {
  __shared__ int s[32]; int t = threadIdx.x; int v = p[t];
  for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
  if ((t & 31) == 0) s[t >> 5] = v;
  __syncthreads();
  if (t < 32) { v = t < (blockDim.x >> 5) ? s[t] : 0; for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o); if (t == 0) q[0] = v; }
}
extern "C" __global__ void treereduce(const int* p, int* q) {
  __shared__ int s[256]; int t = threadIdx.x; s[t] = p[t]; __syncthreads();
  for (int n = blockDim.x / 2; n > 32; n >>= 1) { if (t < n) s[t] += s[t + n]; __syncthreads(); }
  if (t < 32) { int v = s[t] + s[t + 32]; for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o); if (t == 0) q[0] = v; }
}
extern "C" __global__ void scan(const int* p, int* q) {
  __shared__ int s[2][256]; int t = threadIdx.x; int w = 0; s[0][t] = p[t]; __syncthreads();
  for (int o = 1; o < blockDim.x; o <<= 1) { s[1 - w][t] = s[w][t] + (t >= o ? s[w][t - o] : 0); w ^= 1; __syncthreads(); }
  q[t] = s[w][t];
}
extern "C" __global__ void hist(const int* p, int* q) {
  __shared__ int h[16]; int t = threadIdx.x; if (t < 16) h[t] = 0; __syncthreads();
  atomicAdd(&h[p[t] & 15], 1); __syncthreads(); if (t < 16) atomicAdd(&q[t], h[t]);
}
extern "C" __global__ void bitonic(const int* p, int* q) {
  __shared__ int s[256]; int t = threadIdx.x; s[t] = (p[t] * 7919) & 1023; __syncthreads();
  for (int k = 2; k <= blockDim.x; k <<= 1) for (int j = k >> 1; j; j >>= 1) {
    int x = t ^ j; if (x > t) { bool up = (t & k) == 0; if ((s[t] > s[x]) == up) { int y = s[t]; s[t] = s[x]; s[x] = y; } } __syncthreads(); }
  q[t] = s[t];
}
extern "C" __global__ void transpose(const int* p, int* q) {
  __shared__ int s[16][17]; int x = threadIdx.x & 15, y = threadIdx.x >> 4; s[y][x] = p[y * 16 + x]; __syncthreads(); q[y * 16 + x] = s[x][y];
}
extern "C" __global__ void bytes(const int* p, int* q) {
  int t = threadIdx.x; uchar4 c; c.x = p[t]; c.y = p[t] >> 1; c.z = 7; c.w = t; reinterpret_cast<uchar4*>(q)[t] = c;
}
extern "C" __global__ void vec3(const int* p, int* q) {
  int t = threadIdx.x; float3 a = make_float3(p[t], 2, 3); float3 b; b.x = a.y; b.y = a.x; b.z = 0; q[t] = (int)(b.x * b.y + b.z);
}
extern "C" __global__ void early(const int* p, int* q) {
  int t = blockIdx.x * blockDim.x + threadIdx.x; if (t >= 200) return; q[t] = p[t] * 2;
}
extern "C" __global__ void printing(const int* p, int* q) { if (threadIdx.x == 0) printf("hi %d %f\n", p[3], 1.5); q[threadIdx.x] = 1; }
extern "C" __global__ void flagshared(const int* p, int* q) {
  __shared__ volatile int flag; __shared__ int data; int t = threadIdx.x;
  if (t == 0) flag = 0; __syncthreads();
  if (t == 0) { data = 42; __threadfence_block(); flag = 1; }
  if (t == 32) { while (!flag) ; __threadfence_block(); q[0] = data; }
}
extern "C" __global__ void lastblock(const int* p, int* q) {
  __shared__ bool last; int t = threadIdx.x; if (t == 0) { q[16 + blockIdx.x] = p[blockIdx.x]; __threadfence(); last = atomicInc((unsigned*)&q[0], gridDim.x - 1) == gridDim.x - 1; }
  __syncthreads(); if (last && t == 0) { int v = 0; __threadfence(); for (int i = 0; i < gridDim.x; i++) v += ((volatile int*)q)[16 + i]; q[1] = v; }
}
extern "C" __global__ void matchany(const int* p, int* q) {
  unsigned m = __match_any_sync(~0u, p[threadIdx.x] & 3); int l = __ffs(m) - 1; int v = __shfl_sync(m, threadIdx.x, l); q[threadIdx.x] = v + __popc(__activemask());
}
extern "C" __global__ void divergentwarp(const int* p, int* q) {
  int t = threadIdx.x; int v = p[t];
  if (t & 1) { v = __shfl_xor_sync(0xaaaaaaaa, v, 2); } else { v = __shfl_xor_sync(0x55555555, v, 4); }
  __syncwarp(); q[t] = v;
}
__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
extern "C" __global__ void recursion(const int* p, int* q) { q[threadIdx.x] = fib(p[threadIdx.x] % 8); }
__device__ __noinline__ int f0(int x) { return x + 1; } __device__ __noinline__ int f1(int x) { return x * 2; }
extern "C" __global__ void fptr(const int* p, int* q) { int (*f)(int) = p[threadIdx.x] & 1 ? f0 : f1; q[threadIdx.x] = f(p[threadIdx.x]); }
extern "C" __global__ void guard(const int* p, int* q) {
  int t = threadIdx.x; float4 v; bool in = t < 40; if (in) v = reinterpret_cast<const float4*>(p)[t];
  float s = 0; if (in) s = v.x + v.y + v.z + v.w; q[t] = (int)s;
}
extern "C" __global__ void unroll(const int* p, int* q) {
  int t = threadIdx.x; int r[4]; 
  #pragma unroll
  for (int i = 0; i < 4; i++) if (t + i < 64) r[i] = p[t + i];
  int v = 0;
  #pragma unroll
  for (int i = 0; i < 4; i++) if (t + i < 64) v += r[i];
  q[t] = v;
}
