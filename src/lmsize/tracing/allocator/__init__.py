"""PyTorch's caching allocator for CUDA, simulated on a stream of requests.

Turns what a program asks for into what the allocator takes from the device: `reserved`, its
fragmentation, and the request at which a given capacity is exhausted.
"""

from lmsize.tracing.allocator.settings import AllocatorSettings, allocator_settings
from lmsize.tracing.allocator.simulation import Reserved, simulated

__all__ = ["AllocatorSettings", "Reserved", "allocator_settings", "simulated"]
