"""All system calls and subprocesses of the restore driver; no other room touches the kernel directly."""
