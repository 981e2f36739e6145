"""The simulated disk, which ships with the product."""

from ostnode.store.simdisk import (
    INDEX_PAGE_BYTES,
    Faults,
    SimCrash,
    SimDisk,
    SimFile,
    SimIndex,
    copy_index,
)
from ostnode.store.siminode import SECTOR_BYTES, Inode, Truncate, Write

__all__ = [
    "INDEX_PAGE_BYTES",
    "SECTOR_BYTES",
    "Faults",
    "Inode",
    "SimCrash",
    "SimDisk",
    "SimFile",
    "SimIndex",
    "Truncate",
    "Write",
    "copy_index",
]
