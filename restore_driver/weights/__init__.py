"""The weights holder: a resident process with models in page-locked host memory, which puts them on the card while
CRIU restores and hands the device memory over by file descriptor."""
