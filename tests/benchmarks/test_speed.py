"""What `make bench` says of the seconds that it measures; no clock is read here."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.speed import figures, further, ours, picture
from benchmarks.speed.__main__ import names_of, wanted
from benchmarks.speed.networks import make_config, peer_network
from benchmarks.speed.plan import (
    EVALUATION,
    LIMITS,
    MEASUREMENTS,
    OURS,
    PEERS,
    Case,
    calls_within,
    entries,
    in_turn,
    measure,
    worth_repeating,
)
from benchmarks.speed.runner import Sides, Unequal
from benchmarks.speed.worker import SideFailed, Worker
from jax_ddpm import experiment

ROOT = Path(__file__).parents[2]

# 8 GFLOP in 2 s at the median beside 32 GFLOP in 4 s at the quicker limit: half of it.
TRAINED = {
    "name": "cifar_train_b8",
    "seconds": {
        OURS: [2.0, 1.0, 4.0],
        "torch_eager": [9.0, 8.0, 7.0],
        "torch_channels_last": [2.4, 2.3, 2.6],
        "limit_jax": [4.0, 5.0, 3.0],
        "limit_torch": [8.0, 8.0, 8.0],
    },
    "flops": 8e9,
    "limit_flops": {"limit_jax": 32e9, "limit_torch": 32e9},
    "left_out": {"torch_compile": "no compiler"},
}


def chain(steps: int, seconds: float, evaluation: float, memory: int = 100) -> dict:
    times = {OURS: [seconds], EVALUATION: [evaluation]}
    return {"name": f"digits_sample{steps}", "seconds": times, "temporary_bytes": memory, "flops": 1.0}


def trained(batch: int, seconds: float) -> dict:
    return {"name": f"digits_train_b{batch}", "seconds": {OURS: [seconds]}, "flops": 1.0}


def test_a_ratio_is_of_medians_and_of_the_best_peer_and_its_bounds_are_of_repeats():
    found = figures.ratio(TRAINED)
    assert found.against == "torch_channels_last"
    assert (found.value, found.low, found.high) == pytest.approx((2.4 / 2, 2.6 / 4, 2.3 / 1))


def test_alone_there_is_no_ratio():
    assert figures.ratio(trained(16, 1.0)) is None


def test_the_share_of_the_limit_is_of_the_quicker_product():
    assert figures.limit(TRAINED) == pytest.approx(8e9)
    assert figures.of_peak(TRAINED) == pytest.approx(0.5)
    assert figures.of_peak(trained(16, 1.0)) is None


def test_a_step_of_a_chain_in_evaluations():
    assert figures.evaluations_a_step(chain(100, 2.06, 0.02)) == pytest.approx(1.03)
    assert figures.evaluations_a_step(TRAINED) is None


def test_the_lines_that_a_program_reads():
    results = [
        TRAINED,
        chain(10, 0.2, 0.02, 1000),
        chain(100, 2.2, 0.02, 1010),
        trained(16, 1.6),
        trained(32, 2.4),
        trained(64, 5.0),
    ]
    assert list(figures.lines(results)) == [
        "bench: cifar_train_b8 ratio=1.20 against=torch_channels_last bar=1.15 met",
        "bench: cifar_train_b8 of_peak=0.500 bar=0.65 missed",
        "bench: digits_sample10 evaluations_a_step=1.000 bar=1.03 met",
        "bench: digits_sample100 evaluations_a_step=1.100 bar=1.03 missed",
        "bench: digits_sample memory_growth=1.010 from=10 to=100",
        "bench: digits_train image_growth=1.042 from=32 to=64",
    ]


def test_the_tables_that_a_person_reads():
    head, rule, row = figures.table([TRAINED])
    assert head == "| ms | ours | torch_eager | torch_channels_last | ratio | of the limit | repeats |"
    assert rule.count("|") == head.count("|")
    assert row == (
        "| cifar_train_b8 | 2,000.0 [1,000.0–4,000.0] | 8,000.0 [7,000.0–9,000.0] | 2,400.0 [2,300.0–2,600.0] "
        "| 1.20 [0.65–2.30] | 50% | 3 |"
    )
    assert list(figures.growth_table([chain(100, 2.0, 0.02), chain(10, 0.3, 0.02)]))[2:] == [
        "| digits | steps | 10 | 300.0 | 30.00 | 100 |",
        "| digits | steps | 100 | 2,000.0 | 20.00 | 100 |",
    ]
    assert list(figures.left_out([TRAINED, TRAINED])) == ["left out: torch_compile: no compiler"]


def test_the_plot_of_all_that_can_be_and_of_one_measurement_alone(tmp_path):
    picture.draw(
        [TRAINED, chain(10, 0.2, 0.02), chain(100, 2.0, 0.02), trained(16, 1.0), trained(32, 2.0)], tmp_path / "all.png"
    )
    picture.draw([trained(16, 1.0)], tmp_path / "one.png")
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 0


def test_each_begins_a_round_in_turn():
    assert list(in_turn("abc", 4)) == [*"abc", *"bca", *"cab", *"abc"]


@pytest.mark.parametrize(("seconds", "calls"), [(10.0, 1), (0.25, 1), (0.1, 3), (0.001, 250)])
def test_short_calls_are_repeated_within_a_repeat(seconds, calls):
    assert calls_within(seconds) == calls


def test_only_long_and_clearly_slower_peers_are_not_repeated():
    first = {OURS: 30.0, "torch_eager": 12.6, "torch_channels_last": 10.0, "torch_compile": 12.4}
    assert worth_repeating(first) == (OURS, "torch_channels_last", "torch_compile")
    assert worth_repeating({name: seconds / 10 for name, seconds in first.items()}) == tuple(first)


def run_by(seconds: dict[str, float]):
    """A clock that knows how long each takes, and notes who was asked and for how many calls."""
    asked = []

    def run(name: str, calls: int) -> float:
        asked.append((name, calls))
        return seconds[name]

    return run, asked


def test_repeats_interleave_and_the_first_call_counts_where_it_is_long_enough():
    run, asked = run_by({OURS: 1.0, "torch_eager": 0.05})
    found = measure(run, [OURS, "torch_eager"], budget=0.0, rounds=3)
    assert found == {OURS: [1.0] * 3, "torch_eager": [0.05] * 3}
    assert asked == [
        (OURS, 1), ("torch_eager", 1),
        (OURS, 1), ("torch_eager", 5),
        ("torch_eager", 5), (OURS, 1),
        ("torch_eager", 5),
    ]  # fmt: skip


def test_the_budget_buys_more_rounds_up_to_a_number():
    for budget, rounds in ((5.0, 5), (1e6, 9)):
        run, _ = run_by({OURS: 0.5, "torch_eager": 0.5})
        assert {len(times) for times in measure(run, [OURS, "torch_eager"], budget=budget, rounds=3).values()} == {rounds}


def test_what_runs_beside_a_case():
    sample, forward, alone = (MEASUREMENTS[name] for name in ("digits_sample1000", "cifar_forward_b8", "digits_train_b16"))
    assert entries(sample, PEERS) == (OURS, *PEERS, EVALUATION)
    assert entries(forward, PEERS) == (OURS, *PEERS[:3], *LIMITS)  # the fourth runs the second's network
    assert entries(alone, PEERS) == (OURS,)
    assert entries(MEASUREMENTS["adm64_bf16_sample50"], ()) == (OURS, EVALUATION, *LIMITS)


def test_a_cpu_takes_what_is_for_accelerators_when_it_is_named():
    both = ["cifar_train_b8", "cifar_bf16_train_b128", "start"]
    assert [each.name for each in wanted(both, named=False, backend="cpu")] == both[:1]
    assert [each.name for each in wanted(both, named=False, backend="gpu")] == both[:2]
    assert [each.name for each in wanted(both, named=True, backend="cpu")] == both[:2]
    assert MEASUREMENTS["cifar_bf16_train_b128"].case.dtype == "bfloat16"


def test_what_is_measured_in_bfloat16_is_computed_in_it():
    case = Case("digits", "forward", 4, dtype="bfloat16")
    config = make_config(case)
    assert experiment.make_network(config).dtype == jax.numpy.bfloat16
    assert experiment.make_network(make_config(case._replace(dtype="float32"))).dtype == jax.numpy.float32


def test_what_is_for_accelerators_does_not_count_as_growth():
    in_bfloat16 = {**trained(128, 1.0), "name": "cifar_bf16_train_b128"}
    assert figures.growth([TRAINED, in_bfloat16], "cifar", "train") == [(8, 2.0, TRAINED)]


# Those of the papers; ADM's 296 million are with 773,187 for 1,000 classes and the variance.
@pytest.mark.parametrize(("net", "count"), [("digits", None), ("cifar", 35_746_307), ("adm64", 295_131_267)])
def test_diffusers_is_told_our_architecture_in_terms_of_json(net, count):
    config = make_config(Case(net, "train", 8))
    told = peer_network(config)
    assert json.loads(json.dumps(told)) == told
    assert len(told["down_block_types"]) == len(told["block_out_channels"]) == len(config.model.multipliers)
    if count is not None:  # that of the paper
        params = jax.eval_shape(lambda: experiment.init_params(config, jax.random.key(0)))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


class Side:
    """A process that answers by a table."""

    def __init__(self, **answers):
        self.answers, self.clock = answers, itertools.count(1)

    def ask(self, do, **told):
        answer = self.answers.get(do, {})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, key, calls):
        return float(next(self.clock))


TORCH_SIDE = {"about": {"backend": "cpu"}}
OURS_SIDE = {"about": {"backend": "cpu", "devices": 2}, "limit": {"flops": 10}, "prepare": {"parameters": 5, "flops": 7.0}}


def test_a_peer_that_cannot_run_is_left_out_with_its_reason(tmp_path):
    torch = Side(**TORCH_SIDE, prepare=SideFailed("no compiler"), limit={"flops": 10})
    found = Sides(Side(**OURS_SIDE), torch, tmp_path).measure(
        MEASUREMENTS["cifar_forward_b8"], ["torch_compile"], budget=0, rounds=2
    )
    assert found["left_out"] == {"torch_compile": "no compiler"}
    assert {name: len(times) for name, times in found["seconds"].items()} == {OURS: 2, "limit_jax": 2, "limit_torch": 2}
    assert found["flops"] == 7.0


def test_another_number_of_parameters_ends_the_run(tmp_path):
    torch = Side(**TORCH_SIDE, prepare={"parameters": 6}, limit={"flops": 10})
    with pytest.raises(Unequal, match="torch_eager has 6 parameters, ours 5"):
        Sides(Side(**OURS_SIDE), torch, tmp_path).measure(MEASUREMENTS["cifar_forward_b8"], ["torch_eager"], budget=0, rounds=1)


def test_one_on_a_gpu_and_the_other_not_are_not_compared(tmp_path):
    with pytest.raises(Unequal, match="JAX computes on cpu and PyTorch on cuda"):
        Sides(Side(**OURS_SIDE), Side(about={"backend": "cuda"}), tmp_path)


def test_the_lines_of_what_is_measured_apart():
    begun = {"compiled_s": 4.0, "first_step_s": 9.5}
    mib = {"resident": 2**21, "device": None}
    found = {
        "start": {"cifar": {"cold": {name: 10 * seconds for name, seconds in begun.items()}, "warm": begun}},
        "memory": {"digits_train": {OURS: mib, "torch_channels_last": {**mib, "resident": 2**22}}},
        "data": {"images_per_second": [900, 1000, 1200]},
    }
    assert further.further_lines(found) == [
        "bench: cifar_start cold_s=95.0 warm_s=9.5 compiled_cold_s=40.0 compiled_warm_s=4.0 bar=10 met",
        "bench: digits_train_memory ours_mib=2 torch_channels_last_mib=4 of=resident",
        "bench: data images_per_second=1000 low=900 high=1200",
    ]


ANSWERING = """
from benchmarks.speed.worker import serve

def loud(request):
    print("noise between the answers")
    return {"twice": 2 * request["number"]}

def wrong(request):
    raise ValueError("first line\\nsecond line")

serve({"loud": loud, "wrong": wrong})
"""


def test_a_side_answers_line_by_line_whatever_else_is_printed_and_tells_its_errors():
    asked = [{"do": "loud", "number": 3}, {"do": "wrong"}, {"do": "loud", "number": 4}]
    told = "".join(json.dumps(each) + "\n" for each in asked)
    done = subprocess.run([sys.executable, "-c", ANSWERING], input=told, cwd=ROOT, capture_output=True, text=True)
    assert list(map(json.loads, done.stdout.splitlines())) == [{"twice": 6}, {"error": "ValueError: first line"}, {"twice": 8}]
    assert done.stderr.count("noise between the answers") == 2
    assert "second line" in done.stderr


def test_a_side_that_ends_says_so(tmp_path):
    with Worker("no_such_side", tmp_path / "log") as worker, pytest.raises(SideFailed, match="ended with code 1"):
        worker.ask("about")
    assert "no_such_side" in (tmp_path / "log").read_text()


def test_names_are_taken_in_the_plans_order_and_strange_ones_are_told():
    class Refused(Exception):
        pass

    def refuse(message):
        raise Refused(message)

    parser = SimpleNamespace(error=refuse)
    assert names_of("b,a", ("a", "b", "c"), parser, "--only") == ["a", "b"]
    with pytest.raises(Refused, match="--only=d: expected some of a, b, c"):
        names_of("a,d", ("a", "b", "c"), parser, "--only")


def test_weights_that_hide_nothing():
    config = make_config(Case("digits", "forward", 2))
    for leaf in jax.tree.leaves(ours.make_params(config)):
        assert leaf.dtype == np.float32
        assert np.count_nonzero(leaf) == leaf.size
