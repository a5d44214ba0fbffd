"""Files that CRIU does not carry: what a container wrote over its image, and shared memory by name."""
