"""What the comparison says, in sentences computed from its numbers.

One sentence a question: do restores pay, does our policy pay, is the SLO met, how far is it to the
bounds, does pooling pay. The same template serves a win and a loss, so that a loss is said as plainly
as a win: the words follow from the comparison of costs, with the SLO above them (a row that misses
the SLO does not win against one that meets it). Which rows are compared is chosen in `derived.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulations.report import derived
from simulations.report.wording import attained, change, count, number, percent, setting
from simulations.results import Comparison, RunResult

GOOD, MIXED, BAD, PLAIN = "good", "mixed", "bad", "plain"

TIE_SHARE = 0.005
"""Costs closer than half a percent are called a tie: one replay cannot tell them apart."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One answer of the verdict: what it is about, whether it is good for our row, and its text."""

    topic: str
    """`restore`, `policy`, `slo`, `bounds` or `pooling`."""
    tone: str
    """`good`, `mixed`, `bad` or `plain`, for us."""
    text: str


def verdict(comparison: Comparison) -> tuple[Sentence, ...]:
    """Return the plain-language verdict; a question that the rows cannot answer gets no sentence."""
    asked = (_restore, _policy, _slo, _bounds, _pooling)
    return tuple(s for s in (ask(comparison) for ask in asked) if s is not None)


def outcome(comparison: Comparison, run: RunResult, other: RunResult) -> str:
    """Return how `run` fares against `other`: `good`, `mixed`, `bad` or `plain`.

    `good` where it wins on cost and is worse in nothing, `mixed` where it wins one thing for another, `bad` where it
    loses, `plain` for a tie. Missing the SLO where `other` meets it loses.
    """
    meets, other_meets = (derived.meets(r.misses, r.requests, comparison.slo_share) for r in (run, other))
    if other_meets and not meets:
        return BAD
    by_cost = _leaning(run.cost_gpu_s, other.cost_gpu_s)
    if by_cost > 0:
        return MIXED if meets and not other_meets else BAD
    worse = max(_leaning(run.held_gpu_hours, other.held_gpu_hours), _leaning(run.misses, other.misses))
    better = min(_leaning(run.held_gpu_hours, other.held_gpu_hours), _leaning(run.misses, other.misses))
    if by_cost < 0:
        return MIXED if worse > 0 else GOOD
    return MIXED if worse > 0 > better else PLAIN


def _leaning(value: float, reference: float) -> int:
    """-1 less, 1 more, 0 within a tie."""
    margin = TIE_SHARE * abs(reference)
    return (value > reference + margin) - (value < reference - margin)


def _difference(run: RunResult, other: RunResult) -> str:
    held = change(run.held_gpu_hours, other.held_gpu_hours, "fewer", "more", "as many")
    hours = f"({number(run.held_gpu_hours)} against {number(other.held_gpu_hours)})"
    return f"holds {held} GPU-hours {hours} and {_missed(run.misses, other.misses)}"


def _missed(misses: int, others: int) -> str:
    if misses == others == 0:
        return "misses no request, as the other does not"
    if misses == 0:
        return f"misses no request against {count(others)}"
    more = change(misses, others, "fewer", "more", "as many")
    return f"misses {more} requests ({count(misses)} against {count(others)})"


def _priced(run: RunResult, other: RunResult) -> str:
    if _leaning(run.cost_gpu_s, other.cost_gpu_s) == 0:
        return "misses priced in, the two cost the same to within half a percent"
    cost = change(run.cost_gpu_s, other.cost_gpu_s, "less", "more", "as much")
    return f"misses priced in, it costs {cost}"


def _restore(comparison: Comparison) -> Sentence | None:
    pairs = derived.restore_pairs(comparison)
    if not pairs:
        return None
    cold, restored = next(((c, r) for c, r in pairs if c.policy.startswith("hpa")), pairs[0])
    tone = outcome(comparison, restored, cold)
    lost = " Here restores did not pay." if tone == BAD else ""
    text = (
        f"What restores are worth: started from snapshots instead of cold, {derived.family(cold)} "
        f"{_difference(restored, cold)}; {_priced(restored, cold)}.{lost}{_all_pairs(comparison, pairs)}"
    )
    return Sentence("restore", tone, text)


def _all_pairs(comparison: Comparison, pairs: tuple[tuple[RunResult, RunResult], ...]) -> str:
    if len(pairs) < 2:
        return ""
    cheaper = sum(_leaning(r.cost_gpu_s, c.cost_gpu_s) < 0 for c, r in pairs)
    return f" Of the {len(pairs)} policies that ran both ways, restores made {cheaper} cheaper."


def _policy(comparison: Comparison) -> Sentence | None:
    us, other = derived.ours(comparison), derived.best_baseline(comparison)
    if us is None or other is None:
        return None
    tone = outcome(comparison, us, other)
    rivals = [r for r in derived.baselines(comparison) if r.starts_from == other.starts_from]
    start = "from snapshots" if other.starts_from == "restore" else other.starts_from
    chosen = _chosen(comparison, other, len(rivals), start)
    same = us.starts_from == other.starts_from
    given = "" if same else f" {us.row} does not start {start}: the gap holds that too."
    text = (
        f"What the policy is worth: against {other.row}, {chosen}, {us.row} {_difference(us, other)}; "
        f"{_priced(us, other)}.{_judgement(comparison, us, other, tone)}{given}{_beaten(us, rivals)}"
    )
    return Sentence("policy", tone, text)


def _chosen(comparison: Comparison, other: RunResult, rivals: int, start: str) -> str:
    """Why this baseline is the one to beat."""
    if rivals == 1:
        return f"the only baseline that starts {start}"
    if derived.meets(other.misses, other.requests, comparison.slo_share):
        return f"the cheapest to meet the SLO of the {rivals} baselines that start {start}"
    return f"the cheapest of the {rivals} baselines that start {start}, none of which meets the SLO"


def _judgement(comparison: Comparison, us: RunResult, other: RunResult, tone: str) -> str:
    cheaper = _leaning(us.cost_gpu_s, other.cost_gpu_s) < 0
    if tone == BAD:
        if cheaper:
            return f" But {us.row} misses the SLO that {other.row} meets: it loses this comparison."
        return f" On these terms {us.row} loses."
    if tone == MIXED:
        if cheaper:
            return " It wins on cost, but not on both counts."
        if derived.meets(other.misses, other.requests, comparison.slo_share):
            return " It buys one with the other, and neither wins."
        return f" But {other.row} misses the SLO, and {us.row} meets it."
    return " Too close to call." if tone == PLAIN else ""


def _beaten(us: RunResult, rivals: list[RunResult]) -> str:
    if len(rivals) < 2:
        return ""
    below = sum(derived.dominates(us, r) for r in rivals)
    above = sum(derived.dominates(r, us) for r in rivals)
    behind = f"; {above} of them {'is' if above == 1 else 'are'} no worse than it on both" if above else ""
    return f" It is no worse on GPU-hours and on misses than {below} of the {len(rivals)}{behind}."


def _slo(comparison: Comparison) -> Sentence | None:
    us = derived.ours(comparison)
    if us is None:
        return None
    met = derived.meets(us.misses, us.requests, comparison.slo_share)
    others = derived.baselines(comparison)
    reached = [r.row for r in others if derived.meets(r.misses, r.requests, comparison.slo_share)]
    also = f" Of the {len(others)} baseline rows {_named(reached)}." if others else ""
    missed = percent(us.miss_share) if us.misses else "none"
    asked = f"{attained(comparison.slo_share)} are asked: {'met' if met else 'not met'}"
    text = (
        f"The SLO: {attained(1.0 - us.miss_share)} of {us.row}'s requests began within "
        f"{setting(comparison.slo_wait_s)} s ({missed} missed), and {asked}.{also}"
    )
    return Sentence("slo", GOOD if met else BAD, text)


def _named(rows: list[str]) -> str:
    if not rows:
        return "none meets it"
    if len(rows) > 4:
        return f"{len(rows)} meet it"
    if len(rows) == 1:
        return f"only {rows[0]} meets it"
    return f"{', '.join(rows[:-1])} and {rows[-1]} meet it"


def _bounds(comparison: Comparison) -> Sentence | None:
    us = derived.ours(comparison)
    if us is None:
        return None
    parts = [p for p in (_to_informed(comparison, us), _to_clairvoyant(comparison, us)) if p]
    if not parts:
        return None
    return Sentence("bounds", PLAIN, f"What is left: {us.row} costs " + ", and ".join(parts) + ".")


def _to_informed(comparison: Comparison, us: RunResult) -> str:
    bound = comparison.bound(derived.INFORMED)
    if bound is None:
        return ""
    distance = change(us.cost_gpu_s, bound.cost_gpu_s, "less", "more", "as much")
    who = "the informed bound, which knows the true rate of each moment but not the arrivals"
    luck = " (no floor for a single draw of arrivals)" if us.cost_gpu_s < bound.cost_gpu_s else ""
    return f"{_than(distance)} {who}{luck}"


def _to_clairvoyant(comparison: Comparison, us: RunResult) -> str:
    bound = comparison.bound(derived.CLAIRVOYANT)
    if bound is None:
        return ""
    distance = change(us.cost_gpu_s, bound.cost_gpu_s, "less", "more", "as much")
    below = us.cost_gpu_s < bound.cost_gpu_s
    loose = " (so that bound is not tight here: do not read it as a floor)" if below else ""
    return f"{_than(distance)} the clairvoyant one, which knows every arrival{loose}"


def _than(distance: str) -> str:
    return f"{distance} as" if distance.endswith("as much") else f"{distance} than"


def _pooling(comparison: Comparison) -> Sentence | None:
    gain = comparison.pooling
    if gain is None:
        return None
    spares = change(gain.spare_gpus_pooled, gain.spare_gpus_apart, "fewer", "more", "as many")
    held = change(gain.held_gpu_hours_pooled, gain.held_gpu_hours_apart, "fewer", "more", "as many")
    text = (
        f"What pooling is worth: spares sized together over the targets are {spares} than spares sized apart "
        f"({number(gain.spare_gpus_pooled)} against {number(gain.spare_gpus_apart)} GPUs on the mean), "
        f"{held} GPU-hours are held, and {count(gain.misses_pooled)} requests missed against "
        f"{count(gain.misses_apart)}."
    )
    held_by = _leaning(gain.held_gpu_hours_pooled, gain.held_gpu_hours_apart)
    missed_by = _leaning(gain.misses_pooled, gain.misses_apart)
    return Sentence("pooling", _tone_of_two(held_by, missed_by), text)


def _tone_of_two(held_by: int, missed_by: int) -> str:
    """Return the tone of two leanings that have no common price here."""
    if held_by == missed_by == 0:
        return PLAIN
    if max(held_by, missed_by) <= 0:
        return GOOD
    return BAD if min(held_by, missed_by) >= 0 else MIXED
