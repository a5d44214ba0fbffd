"""A stand-in for the cuda-checkpoint program: the same words, over the stand-in driver that LD_LIBRARY_PATH names."""

import argparse
import ctypes
import sys

TEXTS = {
    1: "invalid argument",
    2: "out of memory",
    3: "initialization error",
    304: "OS call failed or operation not supported on this OS",
    401: "the operation cannot be performed in the present state",
    600: "device not ready",
}
STATES = ("running", "locked", "checkpointed", "failed")


def main(library: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--action", choices=("lock", "checkpoint", "restore", "unlock"))
    parser.add_argument("--get-state", action="store_true")
    parser.add_argument("--timeout", type=int)
    parser.add_argument("--device-map")
    asked = parser.parse_args()
    driver = ctypes.CDLL(library)
    refuse(driver.cuInit(0), "Error initializing CUDA")
    if asked.get_state:
        state = ctypes.c_int()
        what = f"Could not get state of process ID {asked.pid}"
        refuse(driver.cuCheckpointProcessGetState(asked.pid, ctypes.byref(state)), what)
        print(STATES[state.value])
        return
    call = getattr(driver, f"cuCheckpointProcess{asked.action.capitalize()}")
    refuse(call(asked.pid, arguments(asked)), f"Could not {asked.action} on process ID {asked.pid}")


class RestoreArgs(ctypes.Structure):
    _fields_ = (("pairs", ctypes.c_char_p), ("count", ctypes.c_uint))


def arguments(asked: argparse.Namespace) -> object:
    if asked.timeout is not None:
        return ctypes.byref(ctypes.c_uint(asked.timeout))
    if asked.device_map is not None:
        pairs = asked.device_map.replace("=", ",").split(",")
        raw = b"".join(bytes.fromhex(uuid.removeprefix("GPU-").replace("-", "")) for uuid in pairs)
        return ctypes.byref(RestoreArgs(raw, len(pairs) // 2))
    return None


def refuse(code: int, what: str) -> None:
    if code:
        sys.exit(f'{what}: "{TEXTS.get(code, "unknown error")}"')


if __name__ == "__main__":
    main(sys.argv.pop(1))
