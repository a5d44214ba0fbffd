"""Every system call that Python wraps thinly or not at all, and every child process, of the restore driver.

Outside this package no module imports ctypes, fcntl or subprocess, forks, executes, waits for a process, sends a signal
or enters a namespace; `tests/restore_driver/test_system_calls.py` holds that and lists the exceptions with their
reasons. Files and sockets are opened wherever they are needed, by Python's own functions.

What `replica/` imports runs within a replica's process, whose environment is not ours, so those modules need the
standard library only. The same test holds that.
"""
