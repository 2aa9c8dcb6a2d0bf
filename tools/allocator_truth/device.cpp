// A CUDA runtime and driver with no device behind them: they count bytes and hand out addresses.
// Built as libcudart.so.13, so that torch's own libc10_cuda.so runs on any machine.
//
// LMSIZE_CAPACITY_BYTES: what cudaMalloc and cuMemCreate give out in all.
// LMSIZE_LARGE_PAGE_BYTES: page of the expandable segments of the large pool.

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>

namespace {

constexpr size_t kStep = size_t{2} << 20;

size_t number(const char* name) { return std::strtoull(std::getenv(name), nullptr, 10); }

size_t capacity() {
  static const size_t bytes = number("LMSIZE_CAPACITY_BYTES");
  return bytes;
}

size_t large_page() {
  static const size_t bytes = number("LMSIZE_LARGE_PAGE_BYTES");
  return bytes;
}

size_t held = 0;
size_t next_address = 0x7F0000000000;
size_t next_handle = 1;
std::map<size_t, size_t> sizes;  // by address or handle

size_t addresses(size_t bytes, size_t step) {
  const size_t address = (next_address + step - 1) / step * step;
  next_address = address + bytes;
  return address;
}

bool taken(size_t bytes) {
  if (held + bytes > capacity()) return false;
  held += bytes;
  return true;
}

CUresult create(CUmemGenericAllocationHandle* handle, size_t bytes, const void*, unsigned long long) {
  if (!taken(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = next_handle++;
  sizes[*handle] = bytes;
  return CUDA_SUCCESS;
}

CUresult release(CUmemGenericAllocationHandle handle) {
  held -= sizes.at(handle);
  sizes.erase(handle);
  return CUDA_SUCCESS;
}

CUresult reserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  // As the simulation aligns them: by pages, of which the size is a multiple.
  *address = addresses(bytes, bytes % large_page() == 0 ? large_page() : kStep);
  return CUDA_SUCCESS;
}

CUresult nothing() { return CUDA_SUCCESS; }

CUresult attribute(int* value, int, int) {
  *value = 0;
  return CUDA_SUCCESS;
}

}  // namespace

#define QUIET(name, ...) \
  cudaError_t name(__VA_ARGS__) { return cudaSuccess; }

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (!taken(bytes)) return cudaErrorMemoryAllocation;
  const size_t address = addresses(bytes, kStep);
  sizes[address] = bytes;
  *pointer = reinterpret_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  const auto found = sizes.find(reinterpret_cast<size_t>(pointer));
  if (found == sizes.end()) return pointer ? cudaErrorInvalidValue : cudaSuccess;
  held -= found->second;
  sizes.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = capacity() - held;
  *total_bytes = capacity();
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = 13000; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof(*properties));
  properties->totalGlobalMem = capacity();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }

cudaError_t cudaGetDriverEntryPointByVersion(
    const char* symbol, void** function, unsigned int, unsigned long long,
    cudaDriverEntryPointQueryResult* result) {
  if (result) *result = cudaDriverEntryPointSuccess;
  *function = reinterpret_cast<void*>(&nothing);
  if (!std::strcmp(symbol, "cuMemCreate")) *function = reinterpret_cast<void*>(&create);
  if (!std::strcmp(symbol, "cuMemRelease")) *function = reinterpret_cast<void*>(&release);
  if (!std::strcmp(symbol, "cuMemAddressReserve")) *function = reinterpret_cast<void*>(&reserve);
  if (!std::strcmp(symbol, "cuDeviceGetAttribute")) *function = reinterpret_cast<void*>(&attribute);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t) { return "an error of the counting device"; }
const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

QUIET(cudaSetDevice, int)
QUIET(cudaDeviceSynchronize)
QUIET(cudaDeviceEnablePeerAccess, int, unsigned int)
QUIET(cudaDeviceGetDefaultMemPool, cudaMemPool_t*, int)
QUIET(cudaDeviceGetStreamPriorityRange, int*, int*)
QUIET(cudaEventCreateWithFlags, cudaEvent_t*, unsigned int)
QUIET(cudaEventDestroy, cudaEvent_t)
QUIET(cudaEventElapsedTime, float*, cudaEvent_t, cudaEvent_t)
QUIET(cudaEventQuery, cudaEvent_t)
QUIET(cudaEventRecord, cudaEvent_t, cudaStream_t)
QUIET(cudaEventSynchronize, cudaEvent_t)
QUIET(cudaFreeAsync, void*, cudaStream_t)
QUIET(cudaIpcCloseMemHandle, void*)
QUIET(cudaIpcGetMemHandle, cudaIpcMemHandle_t*, void*)
QUIET(cudaIpcOpenMemHandle, void**, cudaIpcMemHandle_t, unsigned int)
QUIET(cudaMallocAsync, void**, size_t, cudaStream_t)
QUIET(cudaMemPoolGetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
QUIET(cudaMemPoolSetAccess, cudaMemPool_t, const cudaMemAccessDesc*, size_t)
QUIET(cudaMemPoolSetAttribute, cudaMemPool_t, cudaMemPoolAttr, void*)
QUIET(cudaMemPoolTrimTo, cudaMemPool_t, size_t)
QUIET(cudaMemcpy, void*, const void*, size_t, cudaMemcpyKind)
QUIET(cudaMemcpyAsync, void*, const void*, size_t, cudaMemcpyKind, cudaStream_t)
QUIET(cudaMemcpyPeerAsync, void*, int, const void*, int, size_t, cudaStream_t)
QUIET(cudaStreamCreateWithPriority, cudaStream_t*, unsigned int, int)
QUIET(cudaStreamQuery, cudaStream_t)
QUIET(cudaStreamSynchronize, cudaStream_t)
QUIET(cudaStreamWaitEvent, cudaStream_t, cudaEvent_t, unsigned int)
QUIET(cudaThreadExchangeStreamCaptureMode, cudaStreamCaptureMode*)

cudaError_t quiet() { return cudaSuccess; }

// The management library, under the name of which this one is opened again: no fabric, no processes.
int nvmlInit_v2() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char*, void** device) { *device = nullptr; return 0; }
int nvmlDeviceGetGpuFabricInfoV(void*, void*) { return 3; }
int nvmlDeviceGetComputeRunningProcesses(void*, unsigned int* count, void*) { *count = 0; return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int* version) { *version = 13000; return 0; }
int nvmlDeviceGetNvLinkRemoteDeviceType() { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2() { return 3; }

}  // extern "C"

// Their arguments differ from one release of the headers to the next, and nothing here calls them.
__asm__(".globl cudaStreamGetCaptureInfo\n.set cudaStreamGetCaptureInfo, quiet");
__asm__(".globl cudaGraphNodeGetDependencies\n.set cudaGraphNodeGetDependencies, quiet");
