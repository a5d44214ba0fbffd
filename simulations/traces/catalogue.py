"""The traces that come with the simulator, by short name, and how a TRACE argument finds its file.

The files lie in `simulations/data/traces/`, beside a README that tells where each was published and
under which licence. They are found through `importlib.resources`, so an installed package works as a
checkout does.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from autoscaler.input_error import InputError
from simulations.traces.tables import TraceFile

AZURE_LICENCE = "CC-BY-4.0, Microsoft (AzurePublicDataset)"
AZURE_CITATION = 'Patel et al., "Splitwise", ISCA 2024'
SERVEGEN_LICENCE = "Apache-2.0 (ServeGen)"
SERVEGEN_CITATION = (
    'Xiang et al., "ServeGen: Workload Characterization and Generation of Large Language Model Serving in '
    'Production", arXiv:2505.09999'
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a trace comes from. `file` is within the data folder."""

    file: str
    licence: str
    citation: str


SHIPPED = {
    "azure-code": Origin("azure_llm_2023_code.csv", AZURE_LICENCE, AZURE_CITATION),
    "azure-conv": Origin("azure_llm_2023_conv.csv", AZURE_LICENCE, AZURE_CITATION),
    "mooncake": Origin("mooncake_conversation.csv", "Apache-2.0 (Mooncake)", 'Qin et al., "Mooncake", FAST 2025'),
    "worldcup98": Origin(
        "worldcup98_minutes_may_june.csv.gz",
        "MIT (counts); logs of the Internet Traffic Archive, free for use with citation",
        'Arlitt and Jin, "Workload characterization of the 1998 World Cup web site", IEEE Network 2000',
    ),
    **{
        f"servegen/{model}": Origin(f"servegen_{model}_week1.csv.gz", SERVEGEN_LICENCE, SERVEGEN_CITATION)
        for model in ("m-large", "m-mid", "m-small", "deepseek-r1", "mm-image")
    },
}


@dataclass(frozen=True, slots=True)
class Located:
    """A trace that was found: its name for the report, its file, the folder of its companions."""

    name: str
    file: TraceFile
    folder: Traversable
    licence: str
    citation: str
    shipped: bool


def trace_names() -> list[str]:
    """Short names of the traces that come with the simulator, sorted."""
    return sorted(SHIPPED)


def locate(name_or_path: str | Path) -> Located:
    """Find a trace by its short name, or else by its path; InputError (naming what is near) when it is neither."""
    text = str(name_or_path)
    origin = SHIPPED.get(text)
    if origin is not None:
        folder = files("simulations").joinpath("data").joinpath("traces")
        file = TraceFile(text, folder.joinpath(origin.file))
        return Located(text, file, folder, origin.licence, origin.citation, shipped=True)
    path = Path(name_or_path)
    if not path.exists():
        near = difflib.get_close_matches(text, SHIPPED, n=1)
        hint = f"did you mean {near[0]}, or " if near else ""
        problem = "there is no such file, and no trace of this name comes with the simulator"
        raise InputError(text, None, None, None, problem, f"{hint}give one of {', '.join(trace_names())}")
    return Located(path.name, TraceFile(text, path), path.parent, "not stated (a file of your own)", "", shipped=False)


def token_file(located: Located) -> TraceFile:
    """Return the quantile file beside a rates file: `fleet_week1.csv.gz` goes with `fleet_tokens.json.gz`.

    The last `_part` of the name may be absent, and the JSON may be plain. InputError if there is none.
    """
    stem = located.file.at.name.removesuffix(".gz").removesuffix(".csv")
    wanted = [
        f"{base}_tokens.json{packed}" for base in (stem, stem.rpartition("_")[0]) if base for packed in (".gz", "")
    ]
    for name in wanted:
        at = located.folder.joinpath(name)
        if at.is_file():
            shown = name if located.shipped else str(Path(located.file.shown).parent / name)
            return TraceFile(shown, at)
    raise located.file.refusal("a trace of rates needs its token quantiles", f"put {' or '.join(wanted)} beside it")
