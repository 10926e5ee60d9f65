"""The simulation of many clips: time adds up, workers share it, and the storage is a limit."""

from dataclasses import replace

import pytest

from scripts.plan_clips import PARTS, Plan, main, served_gbs, simulate

SMALL = Plan(clips=400, gpus=(4,), lost_every_h=1e9, start_s=0.0, prior_gb=0.0)


def test_the_network_takes_what_its_operations_take() -> None:
    found = simulate(replace(SMALL, clips=4000), 1)
    alone = 4000 * 48 * 1000 * 0.80 / (989.0 * 0.35) / 86400
    assert found.days * found.shares["network"] == pytest.approx(alone, rel=0.1)
    assert found.dollars == pytest.approx(found.days * 24 * 2.5)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert set(found.shares) == set(PARTS)


def test_four_workers_take_a_quarter_of_the_time() -> None:
    one, four = (simulate(SMALL, gpus) for gpus in (1, 4))
    assert four.days == pytest.approx(one.days / 4, rel=0.05)
    assert simulate(SMALL, 4) == four, "a seed gives the same"
    assert simulate(SMALL, 400).idle > 0.3, "a worker for each clip waits for the longest"


def test_lost_workers_cost_time() -> None:
    found = simulate(replace(SMALL, lost_every_h=0.1, start_s=600.0), 4)
    assert found.lost > 10
    assert found.days > simulate(SMALL, 4).days


def test_a_slow_storage_is_shared_by_those_who_ask() -> None:
    assert served_gbs(SMALL, 4) == SMALL.link_gbs
    slow = replace(SMALL, storage_gbs=0.01)
    assert served_gbs(slow, 400) < 0.01 / 100
    assert simulate(slow, 400).shares["storage"] > 0.5


def test_tables_and_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(replace(SMALL, gpus=(2, 4))) == 0
    printed = capsys.readouterr().out
    assert printed.count("| 2 | ") == printed.count("| 4 | ") == 3
    with pytest.raises(ValueError, match="gpus: expected numbers of 1 or more"):
        Plan(gpus=(0,))
