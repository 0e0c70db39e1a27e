// Each kernel is wrong in one place; the test names the kind of finding.
extern "C" __global__ void locals(const int* p, int* q) {
  int t = threadIdx.x; float acc[8];
  for (int i = 0; i < (p[t] & 7); i++) acc[i] = i * 2.f;
  q[t] = (int)acc[p[t] & 7];
}
extern "C" __global__ void acc(const int* p, int* q) { int t = threadIdx.x; float s; for (int i = 0; i < p[t] % 4; i++) { if (i == 0) s = 0; s += p[i]; } q[t] = (int)s; }
extern "C" __global__ void reduce16(const int* p, int* q) { int t = threadIdx.x; int v = p[t]; if (t < 16) { for (int o = 8; o; o >>= 1) v += __shfl_down_sync(0xffff, v, o); q[t] = v; } }
extern "C" __global__ void shflhalf(const int* p, int* q) { int t = threadIdx.x; int v = p[t]; if (t < 16) v = __shfl_down_sync(0xffffffff, v, 8); q[t] = v; }
extern "C" __global__ void divbar(const int* p, int* q) { int t = threadIdx.x; if (t < 16) { q[t] = 1; __syncthreads(); } q[t] = p[t]; }
extern "C" __global__ void divbar2(const int* p, int* q) { int t = threadIdx.x; if (t & 1) { __syncthreads(); q[t] = 1;} else { __syncthreads(); q[t] = 2; } }
extern "C" __global__ void tree(const int* p, int* q) {
  __shared__ int s[256]; int t = threadIdx.x; s[t] = p[t]; __syncthreads();
  for (int n = blockDim.x / 2; n > 0; n >>= 1) { if (t < n) s[t] += s[t + n]; if (n > 32) __syncthreads(); }
  if (t == 0) q[0] = s[0];
}
extern "C" __global__ void scan(const int* p, int* q) {
  __shared__ int s[256]; int t = threadIdx.x; s[t] = p[t]; __syncthreads();
  for (int o = 1; o < blockDim.x; o <<= 1) { int v = t >= o ? s[t - o] : 0; s[t] += v; __syncthreads(); }
  q[t] = s[t];
}
extern "C" __global__ void hist(const int* p, int* q) { __shared__ int h[16]; int t = threadIdx.x; if (t < 16) h[t] = 0; atomicAdd(&h[p[t] & 15], 1); __syncthreads(); if (t < 16) q[t] = h[t]; }
extern "C" __global__ void hist2(const int* p, int* q) { __shared__ int h[16]; int t = threadIdx.x; if (t < 16) h[t] = 0; __syncthreads(); h[p[t] & 15]++; __syncthreads(); if (t < 16) q[t] = h[t]; }
extern "C" __global__ void global(const int* p, int* q) { q[0] += p[threadIdx.x]; }
extern "C" __global__ void oob(const int* p, int* q) { q[threadIdx.x] = p[threadIdx.x + 1]; }
extern "C" __global__ void mis(const int* p, int* q) { *(float4*)&q[threadIdx.x + 1] = make_float4(1,2,3,4); }
extern "C" __global__ void earlysync(const int* p, int* q) { int t = threadIdx.x; __shared__ int s[256]; if (t >= 250) return; s[t] = p[t]; __syncthreads(); q[t] = s[249 - t]; }
