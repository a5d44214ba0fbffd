"""`forethaw holder serve | preload | status | drop`: the resident process that keeps weights in page-locked memory."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeGuard

import typer

from restore_driver.commands.options import AsJson, LogFormatOption
from restore_driver.commands.progress import Progress
from restore_driver.commands.run_request import refuse
from restore_driver.errors import DriverError, Reason
from restore_driver.logs import LogFormat

if TYPE_CHECKING:
    from restore_driver.weights.safetensors import Layout

app = typer.Typer(
    help="Keep models in page-locked host memory and copy them to the GPU while CRIU restores.", no_args_is_help=True
)

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PATIENCE_S = 10.0

Socket = Annotated[
    Path,
    typer.Option("--socket", help="The holder's socket: replicas must reach it, and only root may write beside it."),
]
Model = Annotated[str, typer.Argument(help="Name that replicas ask for.")]


@app.command()
def serve(
    socket: Socket,
    budget: Annotated[str, typer.Option(metavar="SIZE", help="Page-locked host memory for models, such as 40G.")],
    device: Annotated[
        str, typer.Option(metavar="N|host:SIZE", help="Ordinal of the GPU; or host memory in place of one, for trials.")
    ] = "0",
    state: Annotated[
        Path | None, typer.Option(help="File that lists the models, from which a restarted holder loads them again.")
    ] = None,
    small_pages: Annotated[bool, typer.Option("--small-pages", help="No huge pages for the models.")] = False,
    log_format: LogFormatOption = LogFormat.TEXT,
) -> None:
    """Serve models on a socket until SIGTERM; prints `ready` once it listens."""
    from restore_driver.weights.serve import serve as serve_holder

    kind, colon, size = device.partition(":")
    try:
        named = f"{kind}:{parse_size('--device', size)}" if colon else device
        serve_holder(named, socket.absolute(), parse_size("--budget", budget), state, not small_pages, log_format)
    except DriverError as error:
        refuse("holder serve", error)


@app.command()
def preload(
    model: Model,
    files: Annotated[list[Path], typer.Argument(help="Its safetensors files, all shards.")],
    socket: Socket,
    layout: Annotated[
        Path | None,
        typer.Option(
            help="Where each tensor lies in the replica's range (the replica's layout.json). "
            "Default: the files' own tensors in file order, each at a multiple of 256 bytes."
        ),
    ] = None,
    deadline: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="Limit for the whole preload.")] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Read a model into the holder's page-locked memory; one that is held already is not read again."""
    from restore_driver.weights.client import HolderClient
    from restore_driver.weights.safetensors import in_file_order

    whole = [file.absolute() for file in files]
    client = HolderClient(socket)
    began_s = time.monotonic()
    try:
        wanted = in_file_order(whole) if layout is None else read_layout(layout)
        with Progress(quiet=as_json) as progress:
            progress.observe("begin", f"{model}: {wanted.total_bytes:,} bytes into page-locked memory")
            loaded = client.preload(model, whole, wanted, deadline)
    except DriverError as error:
        refuse("holder preload", error, as_json=as_json)
    finally:
        client.close()
    answer = {
        "model": model,
        "layout": "in file order, each tensor at a multiple of 256 bytes" if layout is None else str(layout),
        "tensors": len(wanted.offsets_bytes),
        "bytes": wanted.total_bytes,
        **loaded,
        "read_bytes_per_s": wanted.total_bytes / loaded["read_s"] if loaded["read_s"] else None,
        "total_s": time.monotonic() - began_s,
    }
    typer.echo(json.dumps(answer, indent=2) if as_json else _preload_text(answer))


@app.command()
def status(socket: Socket, as_json: AsJson = False) -> None:
    """List the models that are held, and what is left of the budget and of the GPU's memory."""
    state = _ask("holder status", socket, {"do": "status"}, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(state, indent=2))
        return
    for model, size in state["models"].items():
        typer.echo(f"{model}: {size:,} bytes")
    typer.echo(
        f"process {state['pid']} holds {state['held_bytes']:,} of {state['budget_bytes']:,} bytes, "
        f"{state['free_device_bytes']:,} bytes of its GPU are free, {state['leases']} loads are under way"
    )


@app.command()
def drop(model: Model, socket: Socket, as_json: AsJson = False) -> None:
    """Drop a model; what replicas have mapped stays mapped. A model that is not held is no error."""
    held = _ask("holder drop", socket, {"do": "status"}, as_json=as_json)["models"]
    _ask("holder drop", socket, {"do": "drop", "model": model}, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"model": model, "freed_bytes": held.get(model, 0)}, indent=2))
    elif model in held:
        typer.echo(f"dropped {model}: {held[model]:,} bytes are free again")
    else:
        typer.echo(f"{model} was not held; held: {', '.join(held) or 'nothing'}")


def parse_size(option: str, text: str) -> int:
    """Return the bytes of a size such as `40G`: a number, with K, M, G or T for powers of 1024.

    Raises:
        DriverError: REQUEST_INVALID naming option and value.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise DriverError(
            Reason.REQUEST_INVALID,
            f"{option} {text!r} is not a size",
            "give bytes, or a number with K, M, G or T (powers of 1024), such as 40G",
        )
    return size


def read_layout(path: Path) -> Layout:
    """Read a replica's layout.json: `total_bytes`, and `offsets_bytes` by tensor.

    Raises:
        DriverError: REQUEST_INVALID naming file and field.
    """
    from restore_driver.weights.safetensors import Layout

    hint = 'write {"total_bytes": N, "offsets_bytes": {"TENSOR": N, ...}}, or leave --layout out'
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DriverError(Reason.REQUEST_INVALID, f"--layout {path} cannot be read: {error}", hint) from error
    about = content if isinstance(content, dict) else {}
    total, offsets = about.get("total_bytes"), about.get("offsets_bytes")
    if not _is_size(total) or not total:
        raise DriverError(Reason.REQUEST_INVALID, f"--layout {path}: total_bytes is {total!r}, not a size", hint)
    if not isinstance(offsets, dict):
        raise DriverError(Reason.REQUEST_INVALID, f"--layout {path}: offsets_bytes is {offsets!r}, not a table", hint)
    for name, offset in offsets.items():
        if not _is_size(offset):
            raise DriverError(Reason.REQUEST_INVALID, f"--layout {path}: offset of {name} is {offset!r}", hint)
    return Layout(total, offsets)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _ask(command: str, socket: Path, message: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    from restore_driver.weights.client import HolderClient

    client = HolderClient(socket)
    try:
        return client.ask(message, _PATIENCE_S)
    except DriverError as error:
        refuse(command, error, as_json=as_json)
    finally:
        client.close()


def _preload_text(answer: dict[str, Any]) -> str:
    what = f"{answer['model']}: {answer['bytes']:,} bytes, {answer['tensors']} tensors ({answer['layout']})"
    if answer["was_held"]:
        return f"{what}; held already"
    rate = f" ({answer['read_bytes_per_s'] / 1e9:.2f} GB/s)" if answer["read_bytes_per_s"] else ""
    return (
        f"{what}; read in {answer['read_s']:.2f} s{rate}, page-locked in {answer['pin_s']:.2f} s, "
        f"{answer['total_s']:.2f} s in all"
    )
