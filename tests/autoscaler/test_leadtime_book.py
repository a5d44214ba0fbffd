"""What a book learns from starts, told as timelines; and what holds for any observations."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.input_error import InputError
from autoscaler.leadtimes.book import LeadTimeBook
from autoscaler.leadtimes.observation import StartObservation, StartOutcome
from autoscaler.leadtimes.parts import load_lead_times
from autoscaler.leadtimes.records import ENDED_KEPT, HALF_LIFE, PENDING_KEPT, Records
from policies.keys import TargetKey
from policies.leadtime import LeadTime
from policies.types import TierSpec

H100 = load_lead_times("h100")
EMPTY = LeadTimeBook(H100)
CHAT, CODE = TargetKey("team", "chat"), TargetKey("team", "code")
SMALL, LARGE = (1, 13 * 10**9), (1, 65 * 10**9)
SUCCEEDED, FAILED, PENDING = StartOutcome.SUCCEEDED, StartOutcome.FAILED, StartOutcome.PENDING


def start(
    outcome: StartOutcome,
    elapsed_s: float,
    n: int,
    target: TargetKey = CHAT,
    path: str = "staged",
    size: tuple[int, int] = SMALL,
    node_class: str = "H100",
) -> StartObservation:
    """The n-th start, seen n seconds after the epoch."""
    return StartObservation(target, path, node_class, outcome, elapsed_s, f"replica-{n}", float(n), *size)


def starts(outcome: StartOutcome, elapsed_s: float, numbers: range, path: str = "staged") -> list[StartObservation]:
    return [start(outcome, elapsed_s, n, path=path) for n in numbers]


def rungs(
    book: LeadTimeBook, target: TargetKey = CHAT, size: tuple[int, int] = SMALL, node_class: str = "H100"
) -> dict[str, TierSpec]:
    return {t.name: t for t in book.ladder(target, *size, node_class)}


def staged(
    book: LeadTimeBook, target: TargetKey = CHAT, size: tuple[int, int] = SMALL, node_class: str = "H100"
) -> LeadTime:
    return rungs(book, target, size, node_class)["staged"].lead_time


def median_s(lead_time: LeadTime) -> float:
    return lead_time.quantiles_s[len(lead_time.quantiles_s) // 2]


def test_an_empty_book_answers_with_the_file() -> None:
    assert EMPTY.ladder(CHAT, *SMALL, "H100") == H100.ladder(*SMALL, restored=True)
    assert EMPTY.ladder(CHAT, *SMALL, "H100", restored=False) == H100.ladder(*SMALL, restored=False)
    assert EMPTY.supply("lent+node", "H100") == H100.supply("lent+node")


def test_fifty_restores_of_half_a_second_move_the_median_there() -> None:
    """The file says 0.78 s. The prior weighs 10 and 50 outcomes 36, and the prior itself gives way to what
    the path shows, so the median is what was seen; the spread of the file is left in the outer shares."""
    before = median_s(staged(EMPTY))
    after = staged(EMPTY.observe_all(starts(SUCCEEDED, 0.5, range(50))))

    assert before == pytest.approx(0.78, abs=0.01)
    assert median_s(after) == pytest.approx(0.5)
    assert 0.5 < after.quantiles_s[-1] <= staged(EMPTY).quantiles_s[-1]


def test_one_restore_moves_the_mean_by_its_share_of_eleven() -> None:
    prior = staged(EMPTY)
    mean_s = sum(prior.quantiles_s) / len(prior.quantiles_s)
    learnt = staged(EMPTY.observe(start(SUCCEEDED, 2.0, 0)))

    assert sum(learnt.quantiles_s) / len(learnt.quantiles_s) == pytest.approx((10 * mean_s + 2.0) / 11)


def test_other_paths_and_node_classes_keep_the_file() -> None:
    book = EMPTY.observe_all(starts(SUCCEEDED, 0.5, range(50)))
    prior = rungs(EMPTY)

    assert {n: t for n, t in rungs(book).items() if n != "staged"} == {n: t for n, t in prior.items() if n != "staged"}
    assert staged(book, node_class="H200") == prior["staged"].lead_time


def test_restores_that_hang_raise_the_upper_quantiles() -> None:
    """Twenty restores took half a second; then five hang for a minute and have not ended."""
    quick = EMPTY.observe_all(starts(SUCCEEDED, 0.5, range(20)))
    hanging = quick.observe_all(starts(PENDING, 60.0, range(20, 25)))

    assert staged(hanging).quantiles_s[-1] > 60.0
    assert median_s(staged(hanging)) == pytest.approx(0.5)
    assert staged(hanging).mean_s > staged(quick).mean_s + 60.0 * 5 / 40


def test_a_pending_start_counts_once_and_its_outcome_replaces_it() -> None:
    """Seen pending at 1 s and at 9 s, then it succeeded after 10: the same as one that just took 10 s."""
    seen = start(SUCCEEDED, 10.0, 3)
    pending = [replace(seen, outcome=PENDING, elapsed_s=e, at_s=at) for e, at in ((1.0, 1.0), (9.0, 2.0))]

    assert EMPTY.observe_all([*pending, seen]) == EMPTY.observe(seen)
    assert EMPTY.observe(seen).observe_all(pending) == EMPTY.observe(seen)


def test_three_failures_of_ten_show_in_the_failure_probability() -> None:
    """Beta: (10 x 0.005 + 3) / (10 + 10), each a little less for the age of the older outcomes."""
    book = EMPTY.observe_all([*starts(SUCCEEDED, 0.8, range(7)), *starts(FAILED, 0.8, range(7, 10))])

    assert staged(EMPTY).failure_probability == 0.005
    assert staged(book).failure_probability == pytest.approx(0.16, abs=0.01)
    assert rungs(book)["parked"].lead_time.failure_probability == 0.005


def test_pending_starts_are_neither_failures_nor_successes() -> None:
    failed = EMPTY.observe_all(starts(FAILED, 0.8, range(5)))

    assert (
        staged(failed.observe_all(starts(PENDING, 5.0, range(5, 9)))).failure_probability
        == staged(failed).failure_probability
    )


def test_failures_leave_the_duration_of_success_alone() -> None:
    book = EMPTY.observe_all(starts(FAILED, 90.0, range(10)))

    assert staged(book).quantiles_s == pytest.approx(staged(EMPTY).quantiles_s)


def test_failures_that_run_into_a_deadline_delay_the_fallback() -> None:
    """Restores fail after 120 s, not in the second that success takes: what follows is that much later."""
    soon = EMPTY.observe_all(starts(FAILED, 0.78, range(50)))
    late = EMPTY.observe_all(starts(FAILED, 120.0, range(50)))
    cold_s = np.array(rungs(EMPTY)["cold"].lead_time.quantiles_s)

    assert np.array(staged(soon).after_failure_s) == pytest.approx(cold_s, abs=0.05)
    assert np.array(staged(late).after_failure_s) - cold_s == pytest.approx(120.0, rel=0.05)


def test_cold_starts_that_were_seen_follow_failed_restores() -> None:
    book = EMPTY.observe_all(starts(SUCCEEDED, 200.0, range(100), path="cold"))
    ladder = rungs(book)

    assert median_s(ladder["cold"].lead_time) == pytest.approx(200.0)
    assert ladder["staged"].lead_time.after_failure_s == ladder["cold"].lead_time.quantiles_s
    assert staged(book).quantiles_s == staged(EMPTY).quantiles_s


def test_a_failed_cold_start_is_followed_by_another() -> None:
    book = EMPTY.observe_all(starts(FAILED, 50.0, range(10), path="cold"))
    cold = rungs(book)["cold"].lead_time

    assert cold.failure_probability == pytest.approx(0.48, abs=0.02)
    assert np.mean(cold.after_failure_s) == pytest.approx(np.mean(cold.quantiles_s), abs=3.0)
    assert np.mean(rungs(book)["staged"].lead_time.after_failure_s) == pytest.approx(cold.mean_s)


def test_a_target_never_seen_inherits_from_its_path_and_node_class_by_size() -> None:
    """Restores of 13 GB take twice the file's time; 65 GB, which take longer by the file, do so as well."""
    prior = staged(EMPTY, size=SMALL)
    twice = 2 * sum(prior.quantiles_s) / len(prior.quantiles_s)
    book = EMPTY.observe_all(starts(SUCCEEDED, twice, range(150)))
    large = staged(EMPTY, CODE, LARGE)

    assert large.mean_s > 1.5 * prior.mean_s
    assert median_s(staged(book, CODE, SMALL)) == pytest.approx(twice, rel=0.01)
    assert median_s(staged(book, CODE, LARGE)) == pytest.approx(2 * np.mean(large.quantiles_s), rel=0.01)


def test_a_targets_own_outcomes_outweigh_what_others_share() -> None:
    others = EMPTY.observe_all(starts(SUCCEEDED, 3.0, range(150)))
    book = others.observe_all([start(SUCCEEDED, 0.5, n, CODE) for n in range(200, 240)])

    assert median_s(staged(book, CODE)) == pytest.approx(0.5)
    assert median_s(staged(others, CODE)) == pytest.approx(3.0)


def test_one_outcome_of_its_own_does_not_throw_away_what_others_share() -> None:
    others = EMPTY.observe_all(starts(SUCCEEDED, 3.0, range(150)))

    assert median_s(staged(others.observe(start(SUCCEEDED, 0.5, 200, CODE)), CODE)) == pytest.approx(3.0)


def test_what_changed_for_good_is_followed_and_what_was_before_is_forgotten() -> None:
    """A hundred restores of 5 s, then the disks are replaced: 100 of half a second."""
    slow = EMPTY.observe_all(starts(SUCCEEDED, 5.0, range(100)))
    replaced = slow.observe_all(starts(SUCCEEDED, 0.5, range(100, 200)))

    assert median_s(staged(slow)) == pytest.approx(5.0)
    assert median_s(staged(replaced)) == pytest.approx(0.5)
    assert sum(q > 4.0 for q in staged(replaced).quantiles_s) < 10


def test_supply_steps_learn_too() -> None:
    def joined(n: int) -> StartObservation:
        return StartObservation(None, "node", "H100", SUCCEEDED, 600.0, f"node-{n}", float(n))

    free, lent, node = EMPTY.observe_all(joined(n) for n in range(50)).supply("lent+node", "H100")

    assert (free, lent) == H100.supply("lent+node")[:2]
    assert median_s(node.lead_time) == pytest.approx(600.0)
    assert (node.holding_cost, node.taking_cost) == (0.0, 60.0)
    with pytest.raises(InputError, match="no GPU supply 'moon'"):
        EMPTY.supply("moon", "H100")


def test_a_failed_node_is_tried_again() -> None:
    failed = [StartObservation(None, "node", "H100", FAILED, 900.0, f"node-{n}", float(n)) for n in range(10)]
    node = EMPTY.observe_all(failed).supply("node", "H100")[1].lead_time

    assert node.failure_probability == pytest.approx(0.48, abs=0.02)
    assert node.mean_s > 600.0


def test_a_thousand_observations_stay_bounded() -> None:
    seen = [start(SUCCEEDED, 1.0, n) for n in range(1000)] + [start(PENDING, 1.0, n) for n in range(1000, 2000)]
    book = EMPTY.observe_all(seen)

    for records in (book.records[CHAT]["staged", "H100"], book.records[None]["staged", "H100"]):
        assert (len(records.ended), len(records.pending)) == (ENDED_KEPT, PENDING_KEPT)
        assert [r.replica for r in records.ended] == [f"replica-{n}" for n in range(1000 - ENDED_KEPT, 1000)]
    assert ENDED_KEPT + PENDING_KEPT == 200


def test_pending_starts_whose_outcome_was_never_seen_are_forgotten() -> None:
    lost = EMPTY.observe(start(PENDING, 30.0, 0))

    assert lost.observe_all(starts(SUCCEEDED, 1.0, range(1, ENDED_KEPT))).records[CHAT]["staged", "H100"].pending
    assert (
        not lost.observe_all(starts(SUCCEEDED, 1.0, range(1, ENDED_KEPT + 1))).records[CHAT]["staged", "H100"].pending
    )


def test_weights_halve_with_every_half_life_of_newer_outcomes() -> None:
    ended = [start(SUCCEEDED, 1.0, n) for n in range(HALF_LIFE + 1)]
    weights = Records().join([*ended, start(PENDING, 1.0, 0, CODE), start(PENDING, 1.0, 99)]).weights()

    assert (weights[0], weights[HALF_LIFE]) == pytest.approx((0.5, 1.0))
    assert list(weights[-2:]) == pytest.approx([0.5, 1.0])


def test_targets_that_are_gone_leave_only_what_they_shared() -> None:
    book = EMPTY.observe_all([*starts(SUCCEEDED, 3.0, range(150)), start(SUCCEEDED, 1.0, 0, CODE)])
    kept = book.retain({CODE})

    assert set(kept.records) == {CODE, None}
    assert kept.records[None] == book.records[None]
    assert median_s(staged(kept, CHAT)) == pytest.approx(3.0)
    assert kept.retain({CODE}) is kept


def test_a_path_without_a_prior_is_refused_and_changes_nothing() -> None:
    book = EMPTY.observe(start(SUCCEEDED, 1.0, 0))

    with pytest.raises(ValueError, match=r"path: 'active' has no prior in h100; give cold, parked, remote, staged"):
        book.observe_all([start(SUCCEEDED, 1.0, 1), start(SUCCEEDED, 1.0, 2, path="active")])
    with pytest.raises(ValueError, match=r"path: 'staged' has no prior in h100; give lent, node"):
        book.observe(StartObservation(None, "staged", "H100", SUCCEEDED, 1.0, "r", 0.0))
    assert book == EMPTY.observe(start(SUCCEEDED, 1.0, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elapsed_s": -1.0}, "elapsed_s: -1.0"),
        ({"elapsed_s": float("nan")}, "elapsed_s: nan"),
        ({"at_s": float("inf")}, "at_s: inf"),
        ({"replica": ""}, "replica: ''"),
        ({"path": ""}, "path: ''"),
        ({"node_class": ""}, "node_class: ''"),
        ({"gpus_per_replica": 0}, "gpus_per_replica: 0 .* team/chat"),
        ({"target": None}, "gpus_per_replica: 1 .* None"),
        ({"weights_bytes": -1}, "weights_bytes: -1"),
    ],
)
def test_an_impossible_observation_is_refused_by_field_value_and_hint(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*; give "):
        replace(start(SUCCEEDED, 1.0, 0), **change)  # type: ignore[arg-type]  # what a caller might get wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text: .*; start from an empty book"),
        ('{"version":2,"targets":[],"keys":[]}', "version: .*; start from an empty book"),
        (
            '{"version":1,"targets":[],"keys":[{"target":0,"path":"p","node_class":"c","rows":[]}]}',
            "keys: .*; start from an empty book",
        ),
        (
            '{"version":1,"targets":[["a","b"]],"keys":[{"target":-1,"path":"p","node_class":"c","rows":[]}]}',
            "keys.0.target: .*; start from an empty book",
        ),
        (
            (
                '{"version":1,"targets":[],"keys":[{"target":null,"path":"p","node_class":"c",'
                '"rows":[[null,"succeeded",NaN,"r",0.0,0,0]]}]}'
            ),
            "elapsed_s: nan .*; give",
        ),
    ],
)
def test_a_stored_book_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeadTimeBook.from_json(text, H100)


# -- for any observations -------------------------------------------------------------------------

OUTCOMES = st.tuples(
    st.sampled_from((CHAT, CODE)),
    st.sampled_from(("staged", "cold")),
    st.sampled_from(("H100", "H200")),
    st.sampled_from(StartOutcome),
    st.floats(0, 1e4),
    st.sampled_from((SMALL, LARGE)),
)


@st.composite
def observations(draw: st.DrawFn) -> list[StartObservation]:
    """Up to 40 attempts, each seen once."""
    return [
        StartObservation(target, path, node_class, outcome, elapsed_s, f"r{n}", float(n), *size)
        for n, (target, path, node_class, outcome, elapsed_s, size) in enumerate(draw(st.lists(OUTCOMES, max_size=40)))
    ]


@given(observations())
@settings(max_examples=50)
def test_json_gives_back_the_same_book(seen: list[StartObservation]) -> None:
    book = EMPTY.observe_all(seen)
    text = book.to_json()

    assert LeadTimeBook.from_json(text, H100) == book
    assert LeadTimeBook.from_json(text, H100).to_json() == text


@given(observations(), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_observing_does_not_matter(seen: list[StartObservation], order: random.Random) -> None:
    shuffled = list(seen)
    order.shuffle(shuffled)
    one_by_one = EMPTY
    for observation in shuffled:
        one_by_one = one_by_one.observe(observation)

    assert one_by_one == EMPTY.observe_all(seen)
    assert one_by_one.to_json() == EMPTY.observe_all(seen).to_json()


@given(observations())
@settings(max_examples=50)
def test_observing_again_changes_nothing(seen: list[StartObservation]) -> None:
    book = EMPTY.observe_all(seen)

    assert book.observe_all(seen) is book


@given(observations())
@settings(max_examples=50)
def test_pending_starts_never_make_an_estimate_more_optimistic(seen: list[StartObservation]) -> None:
    with_pending = EMPTY.observe_all(seen)
    without = EMPTY.observe_all(o for o in seen if o.ended)

    for target in (CHAT, CODE):
        for tier, ended_only in zip(
            with_pending.ladder(target, *SMALL, "H100"), without.ladder(target, *SMALL, "H100"), strict=True
        ):
            for probability in (0.1, 0.5, 0.9, 0.99, 1.0):
                assert tier.lead_time.at(probability) >= ended_only.lead_time.at(probability) * (1 - 1e-9)


@given(observations(), observations())
@settings(max_examples=50)
def test_a_book_that_remembers_answers_as_one_that_does_not(
    first: list[StartObservation], second: list[StartObservation]
) -> None:
    """Ladders asked for between two observations leave no trace in later answers."""
    older = EMPTY.observe_all(first)
    before = [older.ladder(t, *SMALL, "H100") for t in (CHAT, CODE)]
    later = [replace(o, replica=f"later-{o.replica}", at_s=o.at_s + 100.0) for o in second]
    newer = older.observe_all(later)
    afresh = LeadTimeBook.from_json(newer.to_json(), H100)

    for target in (CHAT, CODE):
        assert newer.ladder(target, *SMALL, "H100") == afresh.ladder(target, *SMALL, "H100")
        assert newer.ladder(target, *LARGE, "H200") == afresh.ladder(target, *LARGE, "H200")
    assert [older.ladder(t, *SMALL, "H100") for t in (CHAT, CODE)] == before


def test_ladders_are_recomputed_only_where_outcomes_changed_them() -> None:
    """An unchanged book gives the same object; a restore on another node class leaves every lead time."""
    book = EMPTY.observe_all(starts(SUCCEEDED, 0.5, range(5)))
    ladder = book.ladder(CHAT, *SMALL, "H100")
    elsewhere = book.observe(start(SUCCEEDED, 0.5, 9, CODE, node_class="H200"))

    assert book.ladder(CHAT, *SMALL, "H100") is ladder
    for kept, before in zip(elsewhere.ladder(CHAT, *SMALL, "H100"), ladder, strict=True):
        assert kept.lead_time is before.lead_time
