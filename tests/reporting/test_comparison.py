"""Several runs on one page."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jax_ddpm.commands import compare
from jax_ddpm.config import default_config, write_config
from jax_ddpm.errors import InvalidInput
from tests.reporting.conftest import METRICS, Page, config, make_workdir, write_json
from tests.reporting.test_report import check_form

ROOT = Path(__file__).parents[2]


def compared(tmp_path, *workdirs):
    settings = default_config()
    settings.compare.update(workdirs=tuple(map(str, workdirs)), out=str(tmp_path / "out/both.html"))
    compare.main(settings, tmp_path)
    return (tmp_path / "out/both.html").read_text()


@pytest.fixture
def pair(tmp_path):
    first = make_workdir(tmp_path / "first")
    second = make_workdir(tmp_path / "second", **{"train.learning_rate": 0.5})
    (second / "metrics.jsonl").write_text("".join(json.dumps(row | {"loss": 2 * row["loss"]}) + "\n" for row in METRICS))
    bound = {"metric": "bits_per_dim", "mean": 4.5, "standard_error": 0.25, "images": 64, "checkpoint": 300}
    write_json(second / "evaluation/step_0000300_test_seed_0/evaluation.json", {"bits_per_dim": bound})
    return first, second


def test_runs_lie_side_by_side(pair, tmp_path):
    html = compared(tmp_path, *pair)
    page, names = Page(html), [str(each) for each in pair]
    check_form(page)
    assert page.of("h1") == ["2 runs compared"]
    tables = page.tables
    assert tables["The runs"][0] == ["what", *names]
    assert tables["Settings that are not the same in all"] == [["setting", *names], ["train.learning_rate", "0.001", "0.5"]]
    losses = [row for row in tables["Loss by step"][1:] if row[1] == "100"]
    assert losses == [[names[0], "100", "0.35"], [names[1], "100", "0.7"]]
    assert [row[:2] for row in tables["Variational bound"][1:]] == [
        [f"{names[0]}: step_0000300_test_seed_0", "3.25 ± 0.12"],
        [f"{names[1]}: step_0000300_test_seed_0", "4.50 ± 0.25"],
    ]
    assert [image["alt"] for image in page.attributes("img")] == [
        f"Samples of {name} after 300 training steps" for name in names
    ]
    assert html.count('<path class="line series-1"') >= 2 * 4  # both lines of four charts, in the drawing and the legend
    assert len(tables["Terms by timestep"]) == 1 + 2 * 8


def test_of_several_bounds_the_one_of_the_longest_chain_is_compared(pair, tmp_path):
    shorter = pair[0] / "evaluation/step_0000300_test_seed_0_uniform4"
    shutil.copytree(pair[0] / "evaluation/step_0000300_test_seed_0", shorter)
    lines = (shorter / "vlb_terms.csv").read_text().splitlines()
    (shorter / "vlb_terms.csv").write_text("\n".join([lines[0], *lines[1::2]]) + "\n")
    rows = Page(compared(tmp_path, *pair)).tables["Terms by timestep"][1:]
    assert {row[0].rpartition(": ")[2] for row in rows} == {"step_0000300_test_seed_0"}
    assert len(rows) == 2 * 8


def test_what_one_of_them_lacks_is_named(pair, tmp_path):
    bare = tmp_path / "bare"
    write_config(config(), bare)
    page = Page(compared(tmp_path, *pair, bare))
    check_form(page)
    assert all(str(bare) in each for each in page.of("code"))
    assert len(page.of("code")) == 5
    assert page.tables["The runs"][1] == ["Trained", "300 of 300 steps", "300 of 300 steps", "not yet, of 300 steps"]


def test_runs_that_are_alike_are_told_to_be(pair, tmp_path):
    twin = make_workdir(tmp_path / "twin")
    assert "None: all settings are the same." in compared(tmp_path, pair[0], twin)


@pytest.mark.parametrize("given", [(), ("first",), ("first", "first")])
def test_less_than_two_runs_are_refused(given, tmp_path):
    with pytest.raises(InvalidInput, match=r"compare\.workdirs is .*: expected two runs or more, each once"):
        compared(tmp_path, *given)
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_several_workdirs_and_no_config(pair, tmp_path):
    words = ["--mode", "compare", "--workdirs", ",".join(map(str, pair)), "--out", str(tmp_path / "x.html")]
    done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"comparison: {tmp_path}/x.html\n"), done.stderr
    words[3] = f"{pair[0]},{tmp_path}/nowhere"
    done = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no run at {tmp_path}/nowhere: expected a config.json there")
