"""Reserve a range of device addresses once and map memory to it repeatedly (CUDA virtual memory management).

CUDA graphs and tensors hold addresses. So weights and KV cache live in reserved ranges: before a checkpoint their
memory is unmapped, after it other memory is mapped at the same place, and captured graphs replay unchanged. The
reservation survives CUDA's checkpoint and CRIU's restore. The driver API's names are kept in the code below.
"""

from __future__ import annotations

import os
from typing import Any


class VmmError(RuntimeError):
    """A call of the driver API failed."""


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver API and return its values, without the error code.

    Raises:
        VmmError: naming function and code.
    """
    from cuda.bindings import driver

    code, *values = getattr(driver, name)(*arguments)
    if code.value != 0:
        raise VmmError(f"{name}: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)


class Range:
    """`size_bytes` (rounded up to the GPU's granularity) of addresses on one device. Methods raise VmmError."""

    def __init__(self, size_bytes: int, ordinal: int = 0) -> None:
        from cuda.bindings import driver

        location = driver.CUmemLocation()
        location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = ordinal
        self._properties = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.location = location
        self._access = driver.CUmemAccessDesc()
        self._access.location = location
        self._access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        flag = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        granularity = int(call("cuMemGetAllocationGranularity", self._properties, flag))
        self.ordinal = ordinal
        self.size_bytes = -(-size_bytes // granularity) * granularity
        self._pointer = call("cuMemAddressReserve", self.size_bytes, 0, 0, 0)
        self.address = int(self._pointer)
        self.mapped = False

    def map_own(self) -> None:
        """Map new memory of our own; its content is undefined."""
        self._map(call("cuMemCreate", self.size_bytes, self._properties, 0))

    def map_imported(self, fd: int) -> None:
        """Map memory that another process exported as a descriptor, and close the descriptor."""
        from cuda.bindings import driver

        kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        try:
            handle = call("cuMemImportFromShareableHandle", fd, kind)
        finally:
            os.close(fd)
        self._map(handle)

    def unmap(self) -> None:
        """Release the memory and keep the addresses; a range that is not mapped stays as it is."""
        if self.mapped:
            call("cuMemUnmap", self._pointer, self.size_bytes)
            self.mapped = False

    def _map(self, handle: Any) -> None:
        """Map a handle and release it: the mapping holds the memory, and unmapping frees it."""
        try:
            call("cuMemMap", self._pointer, self.size_bytes, 0, handle, 0)
        finally:
            call("cuMemRelease", handle)
        try:
            call("cuMemSetAccess", self._pointer, self.size_bytes, [self._access], 1)
        except VmmError:
            call("cuMemUnmap", self._pointer, self.size_bytes)
            raise
        self.mapped = True
