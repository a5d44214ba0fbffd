"""fs-verity: have the kernel verify a file's content at each read (kernel documentation, filesystems/fsverity)."""

from __future__ import annotations

import errno
import fcntl
import struct

_FS_IOC_ENABLE_VERITY = 0x40806685
_SHA256, _BLOCK_BYTES = 1, 4096


def enable_verity(fd: int) -> None:
    """Enable fs-verity with SHA-256 over blocks of 4 KiB on a file that is open for reading only; idempotent.

    Raises:
        OSError: the file system or kernel offers none (EOPNOTSUPP, ENOTTY), or the file is open for writing (ETXTBSY).
    """
    argument = struct.pack("=32I", 1, _SHA256, _BLOCK_BYTES, *(0,) * 29)  # struct fsverity_enable_arg: version 1
    try:
        fcntl.ioctl(fd, _FS_IOC_ENABLE_VERITY, argument)
    except OSError as error:
        if error.errno != errno.EEXIST:  # enabled before
            raise
