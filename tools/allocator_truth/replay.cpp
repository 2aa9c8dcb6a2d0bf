// Serves a stream of requests with torch's own allocator and says where every block went.
//
// Reads lines "+ id bytes stream" and "- id"; writes "id address" for each block, "oom id" where it
// ends early, then the statistics. LMSIZE_FRACTION sets the memory fraction, as garbage collection needs.

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/PeerToPeerAccess.h>

#include <cstdio>
#include <cstdlib>
#include <unordered_map>

namespace allocator = c10::cuda::CUDACachingAllocator;

int main() {
  allocator::init(1);
  c10::cuda::detail::init_p2p_access_cache(1);
  if (const char* fraction = std::getenv("LMSIZE_FRACTION")) {
    allocator::setMemoryFraction(std::atof(fraction), 0);
  }
  std::unordered_map<long, void*> live;
  char sign;
  long id;
  while (std::scanf(" %c %ld", &sign, &id) == 2) {
    if (sign == '-') {
      allocator::raw_delete(live.at(id));
      live.erase(id);
      continue;
    }
    size_t bytes, stream;
    if (std::scanf("%zu %zu", &bytes, &stream) != 2) return 2;
    try {
      live[id] = allocator::raw_alloc_with_stream(bytes, reinterpret_cast<cudaStream_t>(stream));
    } catch (const c10::OutOfMemoryError&) {
      std::printf("oom %ld\n", id);
      break;
    }
    std::printf("%ld %zu\n", id, reinterpret_cast<size_t>(live[id]));
  }
  const auto stats = allocator::getDeviceStats(0);
  std::printf("reserved %ld\n", stats.reserved_bytes[0].current);
  std::printf("peak_reserved %ld\n", stats.reserved_bytes[0].peak);
  std::printf("peak_allocated %ld\n", stats.allocated_bytes[0].peak);
  std::printf("peak_requested %ld\n", stats.requested_bytes[0].peak);
  std::printf("inactive_split %ld\n", stats.inactive_split_bytes[0].current);
  std::printf("segments %ld\n", stats.segment[0].peak);
  std::printf("retries %ld\n", stats.num_alloc_retries);
  std::fflush(stdout);
  std::_Exit(0);  // no destructor needs to run on a device that is not there
}
