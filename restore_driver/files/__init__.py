"""Capture and place files that CRIU does not dump: those written over a container's image, and named shared memory."""
