"""`forethaw push | stage | list | prune`: artifacts between nodes and stores, and how long they stay.

STORE is a directory (a mounted volume) or `s3://bucket/prefix`; object stores take credentials, region and endpoint
from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restore_driver.commands.options import OUTPUT, AsJson
from restore_driver.commands.run_request import fail, refuse
from restore_driver.errors import DriverError, Reason

if TYPE_CHECKING:
    from restore_driver.store.address import Access
    from restore_driver.store.prune import Pruned, Shelf

STORE, RETENTION = "The store", "Retention"

Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Of an S3-compatible server; default: AWS_ENDPOINT_URL.", rich_help_panel=STORE),
]
AllowHttp = Annotated[
    bool, typer.Option("--allow-http", help="Also without TLS (AWS_ALLOW_HTTP).", rich_help_panel=STORE)
]
Patience = Annotated[
    str, typer.Option(metavar="TIME", help="Give up after the store has not answered so long.", rich_help_panel=STORE)
]
Bandwidth = Annotated[
    str | None,
    typer.Option(metavar="BYTES_PER_S", help="Limit the transfer, for example 200M or 1G.", rich_help_panel=STORE),
]


def push(
    artifact: Annotated[Path, typer.Argument(help="An artifact of `forethaw checkpoint`.")],
    store: Annotated[str, typer.Argument(help="/PATH, file:///PATH or s3://BUCKET/PREFIX.")],
    again: Annotated[
        bool, typer.Option("--again", help="Send everything again, also what is there already.", rich_help_panel=STORE)
    ] = False,
    bandwidth: Bandwidth = None,
    endpoint: Endpoint = None,
    allow_http: AllowHttp = False,
    patience: Patience = "30s",
    as_json: AsJson = False,
) -> None:
    """Send an artifact to a store: digests verified while it is read, compressed with zstd, listed once complete.

    The next push resumes one that was interrupted: files that are in the store are not sent again.

    Examples:

        forethaw push /var/lib/forethaw/llama s3://snapshots/prod

        forethaw push /var/lib/forethaw/llama /mnt/snapshots --bandwidth 200M
    """
    from restore_driver.commands.console import TransferBar
    from restore_driver.store.address import open_store
    from restore_driver.store.push import Push

    with _exit_code("push", as_json=as_json) as begun, TransferBar("push", quiet=as_json) as bar:
        backend = open_store(store, _access(endpoint, allow_http, patience))
        task = Push(artifact, backend, _limiter(bandwidth), bar)
        begun.append(task)
        result = task.run(again=again)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        sizes = f"{_size(result.bytes)}, {_size(result.stored_bytes)} in the store, {_size(result.sent_bytes)} sent"
        typer.echo(f"{result.outcome}: {result.snapshot}\n{sizes}, in {result.seconds:.1f} s")


def stage(
    snapshot: Annotated[
        str, typer.Argument(metavar="STORE/NAME[/DIGEST]", help="Without a digest the newest of that name.")
    ],
    directory: Annotated[Path, typer.Argument(help="Becomes the artifact; an older one there is replaced at once.")],
    in_memory: Annotated[
        bool,
        typer.Option(
            "--in-memory",
            help="Mount a tmpfs of huge pages at DIRECTORY's parent, if there is none, and stage into it.",
            rich_help_panel="This machine",
        ),
    ] = False,
    bandwidth: Bandwidth = None,
    endpoint: Endpoint = None,
    allow_http: AllowHttp = False,
    patience: Patience = "30s",
    as_json: AsJson = False,
) -> None:
    """Fetch a snapshot to this node, verified, sealed and published by one rename; then `forethaw restore DIRECTORY`.

    The next stage resumes one that was interrupted or killed. A snapshot that is here already is not fetched again.

    Examples:

        forethaw stage s3://snapshots/prod/llama /var/lib/forethaw/llama

        forethaw stage /mnt/snapshots/llama/0f3a52c1d2e4b687 /run/forethaw/staged/llama --in-memory
    """
    from restore_driver.commands.console import TransferBar
    from restore_driver.host.meminfo import available_memory_bytes
    from restore_driver.store.address import open_store, split_snapshot
    from restore_driver.store.stage import Stage

    with _exit_code("stage", as_json=as_json) as begun, TransferBar("stage", quiet=as_json) as bar:
        store, name, digest = split_snapshot(snapshot)
        access = _access(endpoint, allow_http, patience)
        task = Stage(open_store(store, access), directory, _limiter(bandwidth), bar, access.patience_s)
        begun.append(task)
        result = task.run(name, digest, available_memory_bytes=available_memory_bytes if in_memory else None)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        earlier = f", {_size(result.resumed_bytes)} by an earlier stage" if result.resumed_bytes else ""
        typer.echo(f"{result.outcome}: {result.artifact} is {result.snapshot}")
        typer.echo(f"{_size(result.bytes)}, {_size(result.fetched_bytes)} fetched{earlier}, in {result.seconds:.1f} s")


def list_snapshots(
    store: Annotated[str, typer.Argument(help="/PATH, file:///PATH or s3://BUCKET/PREFIX.")],
    endpoint: Endpoint = None,
    allow_http: AllowHttp = False,
    patience: Patience = "30s",
    as_json: AsJson = False,
) -> None:
    """List the snapshots of a store, the newest of each name first.

    Example: forethaw list s3://snapshots/prod --json
    """
    from restore_driver.store.address import open_store
    from restore_driver.store.catalog import read_catalog

    with _exit_code("list", as_json=as_json):
        catalog = read_catalog(open_store(store, _access(endpoint, allow_http, patience)))
    for problem in catalog.problems:
        print(problem, file=sys.stderr)
    if as_json:
        rows = [
            {
                "name": each.name,
                "digest": each.digest,
                "created_unix_s": each.created_unix_s,
                "bytes": each.bytes,
                "stored_bytes": each.stored_bytes,
            }
            for each in catalog.snapshots
        ]
        typer.echo(json.dumps({"snapshots": rows, "problems": catalog.problems}, indent=2))
    else:
        from restore_driver.commands.console import print_catalog

        print_catalog(catalog)


def prune(
    where: Annotated[
        str, typer.Argument(metavar="STORE_OR_DIRECTORY", help="A store, or a node's directory of artifacts.")
    ],
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep this many of each name, the newest.", rich_help_panel=RETENTION)
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove older snapshots: 7d.", rich_help_panel=RETENTION)
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Remove the oldest while all take more: 200G.", rich_help_panel=RETENTION),
    ] = None,
    grace: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Remove unfinished pushes and stages that are older.", rich_help_panel=RETENTION
        ),
    ] = "24h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be removed.", rich_help_panel=OUTPUT)
    ] = False,
    endpoint: Endpoint = None,
    allow_http: AllowHttp = False,
    patience: Patience = "30s",
    as_json: AsJson = False,
) -> None:
    """Remove snapshots by the retention options, and what unfinished pushes and stages left.

    The newest of each name always stays, and so does each snapshot that a restore, push or stage is reading. Without
    --keep-last, --max-age and --quota only unfinished work is removed.

    Examples:

        forethaw prune s3://snapshots/prod --keep-last 3 --max-age 30d

        forethaw prune /var/lib/forethaw --quota 200G --dry-run
    """
    from restore_driver.store import prune as pruning
    from restore_driver.store.retention import RetentionPolicy
    from restore_driver.store.units import parse_bytes, parse_duration_s

    with _exit_code("prune", as_json=as_json):
        policy = RetentionPolicy(
            keep_last=keep_last,
            max_age_s=None if max_age is None else parse_duration_s(max_age, "--max-age"),
            quota_bytes=None if quota is None else parse_bytes(quota, "--quota"),
        )
        grace_s = parse_duration_s(grace, "--grace")
        shelves = _shelves(where, _access(endpoint, allow_http, patience))
        done = pruning.prune(shelves, policy, time.time(), grace_s, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
    else:
        _print_pruned(done)


def _shelves(where: str, access: Access) -> list[Shelf]:
    """Return the shelves of a path: a store, a node's directory or both; each lists at its own depth."""
    from restore_driver.store.address import local_path, open_store
    from restore_driver.store.prune import NodeShelf, StoreShelf

    shelves: list[Shelf] = [StoreShelf(open_store(where, access))]
    path = local_path(where)
    if path is not None:
        if not path.is_dir():
            raise DriverError(
                Reason.REQUEST_INVALID, f"{path} is not a directory", "give a store or a directory of artifacts"
            )
        shelves.append(NodeShelf(path))
    return shelves


def _access(endpoint: str | None, allow_http: bool, patience: str) -> Access:
    from restore_driver.store.address import Access
    from restore_driver.store.units import parse_duration_s

    return Access(endpoint, allow_http, parse_duration_s(patience, "--patience"))


def _limiter(bandwidth: str | None) -> Any:
    from restore_driver.store.bandwidth import Limiter
    from restore_driver.store.units import parse_bytes

    return Limiter(None if bandwidth is None else parse_bytes(bandwidth, "--bandwidth"))


@contextmanager
def _exit_code(command: str, *, as_json: bool) -> Iterator[list[Any]]:
    """End `command` with exit code 2 on an error before anything was written, with 1 once a task in the list began."""
    begun: list[Any] = []
    began_s = time.monotonic()
    try:
        yield begun
    except DriverError as error:
        if any(task.begun for task in begun):
            fail(command, error, time.monotonic() - began_s, as_json=as_json)
        refuse(command, error, as_json=as_json)


def _print_pruned(done: Pruned) -> None:
    from restore_driver.store.prune import LOCKED

    would, freed = ("would be removed", "would be freed") if done.dry_run else ("removed", "freed")
    for each in done.removed:
        typer.echo(f"{would}: {each['place']} of {each['name']}, {_size(each['bytes'])}: {each['reason']}")
    for each in done.kept:
        if each["locked"] or each["reason"] == LOCKED:
            typer.echo(f"stays: {each['place']} of {each['name']}: {each['reason']}")
    for place in done.swept:
        typer.echo(f"{would}: {place}: left by unfinished work")
    for problem in done.problems:
        print(problem, file=sys.stderr)
    over = f", still {_size(done.over_quota_bytes)} over the quota" if done.over_quota_bytes else ""
    typer.echo(f"{len(done.removed)} {would}, {len(done.kept)} stay, {_size(done.freed_bytes)} {freed}{over}")


def _size(number_bytes: float) -> str:
    from restore_driver.store.units import format_bytes

    return format_bytes(number_bytes)
