// SPDX-License-Identifier: GPL-3.0-or-later
// The part of NVIDIA's driver interface that pycuda calls for us, on top of the emulator. It lets the
// real pycuda run the real back end on a machine without a GPU. Everything happens at once.
//
//   g++ -std=c++17 -O2 -ffp-contract=off -fPIC -shared -Wl,-soname,libcuda.so.1 fake_libcuda.cpp \
//       -o libcuda.so.1
#include "../cuda/gpu/emulate/emulate.cpp"

#include <cstdlib>
#include <string>

namespace {

enum Result { kSuccess = 0, kOutOfMemory = 2, kNotFound = 500, kLaunchFailed = 719 };
constexpr size_t kTotal = size_t{1} << 30;
size_t used;
std::map<void*, size_t> sizes;
int context, module, stream_count, event_count;  // only their addresses matter

size_t limit() {
  const char* text = std::getenv("FAKE_CUDA_MEMORY");
  return text ? std::strtoull(text, nullptr, 10) : kTotal;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

API cuInit(unsigned) { return std::getenv("FAKE_CUDA_NO_DEVICE") ? 100 : kSuccess; }
API cuDriverGetVersion(int* version) {
  const char* text = std::getenv("FAKE_CUDA_VERSION");
  *version = text ? std::atoi(text) : 13000;
  return kSuccess;
}
API cuGetErrorString(int, const char** text) {
  *text = "an error of the emulated driver";
  return kSuccess;
}
API cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}
API cuDeviceGet(int* device, int index) {
  *device = index;
  return index == 0 ? kSuccess : 101;
}
API cuDeviceGetName(char* name, int length, int) {
  std::snprintf(name, length, "emulated GPU");
  return kSuccess;
}
API cuDeviceGetAttribute(int* value, int, int) {
  *value = 3;
  return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** out, int) {
  *out = &context;
  return kSuccess;
}
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxPushCurrent_v2(void*) { return kSuccess; }
API cuCtxPopCurrent_v2(void** out) {
  if (out) *out = &context;
  return kSuccess;
}
API cuCtxGetDevice(int* device) {
  *device = 0;
  return kSuccess;
}
API cuCtxDetach(void*) { return kSuccess; }
API cuCtxSynchronize() { return kSuccess; }

API cuModuleLoadDataEx(void** out, const void*, unsigned, int*, void**) {
  *out = &module;
  return kSuccess;
}
API cuModuleUnload(void*) { return kSuccess; }
API cuModuleGetFunction(void** function, void*, const char* name) {
  const auto found = peel_emulator::registry().find(name);
  if (found == peel_emulator::registry().end()) return kNotFound;
  *function = const_cast<char*>(found->first.c_str());
  return kSuccess;
}
API cuLaunchKernel(void* function, unsigned grid, unsigned, unsigned, unsigned threads, unsigned,
                   unsigned, unsigned shared, void*, void**, void** extra) {
  // CU_LAUNCH_PARAM_BUFFER_POINTER, pointer, CU_LAUNCH_PARAM_BUFFER_SIZE, size, CU_LAUNCH_PARAM_END
  if (extra == nullptr || extra[0] != (void*)1 || extra[2] != (void*)2) return 1;
  const size_t bytes = *static_cast<size_t*>(extra[3]);
  return peel4d_emulate_launch(static_cast<const char*>(function), grid, threads, shared, extra[1],
                               bytes, 0) == 0
             ? kSuccess
             : kLaunchFailed;
}

API cuMemAlloc_v2(void** out, size_t bytes) {
  if (used + bytes > limit()) return kOutOfMemory;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  sizes[*out] = bytes;
  used += bytes;
  return kSuccess;
}
API cuMemFree_v2(void* address) {
  used -= sizes.at(address);
  sizes.erase(address);
  std::free(address);
  return kSuccess;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = limit();
  *free = *total - used;
  return kSuccess;
}
API cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  *out = std::malloc(bytes);
  return kSuccess;
}
API cuMemFreeHost(void* address) {
  std::free(address);
  return kSuccess;
}
API cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void*) {
  memcpy(to, from, bytes);
  return kSuccess;
}
API cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void*) {
  memcpy(to, from, bytes);
  return kSuccess;
}
API cuMemsetD8Async(void* to, unsigned char value, size_t bytes, void*) {
  memset(to, value, bytes);
  return kSuccess;
}

API cuStreamCreate(void** out, unsigned) {
  *out = &stream_count;
  return kSuccess;
}
API cuStreamDestroy_v2(void*) { return kSuccess; }
API cuStreamSynchronize(void*) { return kSuccess; }
API cuStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }
API cuEventCreate(void** out, unsigned) {
  *out = &event_count;
  return kSuccess;
}
API cuEventDestroy_v2(void*) { return kSuccess; }
API cuEventRecord(void*, void*) { return kSuccess; }
API cuEventSynchronize(void*) { return kSuccess; }
API cuEventElapsedTime_v2(float* milliseconds, void*, void*) {
  *milliseconds = 1.0f;
  return kSuccess;
}
