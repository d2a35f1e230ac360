"""The page of a run: what it shows is what the workdir holds, and a browser need load nothing to read it."""

import base64
import io
import json
import re
import shlex
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from configs import digits_classifier
from jax_ddpm.commands import report as command
from jax_ddpm.config import read_config, to_dict, write_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.pictures import grid
from jax_ddpm.reporting import embedded
from jax_ddpm.reporting.comparison import compare
from jax_ddpm.reporting.page import render
from jax_ddpm.reporting.report import report
from jax_ddpm.reporting.telling import drawn_by
from jax_ddpm.reporting.workdirs import read_run
from tests.reporting.conftest import METRICS, STEPS, TERMS, Page, chain, config, pictures

SECTIONS = [
    *("Summary", "Loss", "Bits per dimension by timestep", "Images per second", "Samples through training"),
    *("The reverse chain", "Samplers compared", "Nearest neighbours", "Evaluation", "Config", "Environment"),
]
DRAWN = ("checkpoint", "weights", "samples", "seed", "sample", "sampler", "guidance")
"""What is kept of how samples were drawn."""
LOADED = ("src", "srcset", "poster", "data", "action", "background")


def page_of(workdir):
    return Page(html_of(workdir))


def html_of(workdir):
    command.main(read_config(workdir), workdir)
    return (workdir / "report.html").read_text()


def check_form(page):
    """What holds of every page."""
    assert page.attributes("html") == [{"lang": "en"}]
    for tag, attrs in page.tags:
        assert all((attrs.get(name) or "data:").startswith("data:") for name in LOADED)
        assert tag not in ("iframe", "object", "embed")
        if tag == "link":
            assert attrs["href"] == "data:,"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert all(attrs["alt"] and len(attrs["alt"]) > 10 for attrs in page.attributes("img"))
    targets = [attrs["href"].removeprefix("#") for attrs in page.attributes("a")]
    labels = [attrs["for"] for tag in ("label", "output") for attrs in page.attributes(tag)]
    described = [each for attrs in page.attributes("svg") for each in (attrs.get("aria-labelledby") or "").split()]
    headed = [attrs["aria-labelledby"] for attrs in page.attributes("section")]
    assert {*targets, *labels, *described, *headed} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels == [1] + [2] * (len(levels) - 1)
    assert len(page.attributes("main")) == 1


def pixels(source):
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as picture:
        frames = [np.asarray(picture) for number in range(getattr(picture, "n_frames", 1)) if picture.seek(number) is None]
        return frames, picture.info


def test_the_page_needs_nothing_but_itself_and_can_be_read_by_all(workdir):
    html = html_of(workdir)
    page = Page(html)
    check_form(page)
    assert page.of("h2") == SECTIONS
    assert "default-src 'none'" in page.attributes("meta")[2]["content"]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    assert 'class="hint"' not in html


def test_the_numbers_in_the_tables_are_those_of_the_files(workdir):
    tables = page_of(workdir).tables
    for caption, key in (
        ("Loss by step", "loss"),
        ("Norm of the gradient by step", "grad_norm"),
        ("Images per second by step", "images_per_second"),
    ):
        found = np.array(tables[caption][1:], float)
        np.testing.assert_allclose(found, [(row["step"], row[key]) for row in METRICS], rtol=1e-5)
    found = np.array([row[1:] for row in tables["Terms by timestep"][1:]], float)
    np.testing.assert_allclose(found, np.add(TERMS, [1, 0, 0, 0]), rtol=1e-5)
    assert tables["Variational bound"][1] == [
        "step_0000300_test_seed_0",
        "3.25 ± 0.12",
        "64",
        "300",
        "as the last step left them",
    ]
    said = dict(tables["The run"][1:])
    assert said["Trained"] == "300 of 300 steps"
    assert float(said["Last loss"]) == pytest.approx(METRICS[-1]["loss"], rel=1e-5)
    assert said["Variational bound"] == "3.25 ± 0.12 bits/dim (step_0000300_test_seed_0)"
    assert said["Begun"] == json.loads((workdir / "environment.json").read_text())[0]["started"]


def test_settings_and_environment_are_told(workdir):
    tables, starts = page_of(workdir).tables, json.loads((workdir / "environment.json").read_text())
    assert ["train.steps", "300", "800000"] in tables["Settings that are not the defaults"]
    every = dict(tables["All settings"][1:])
    assert (every["train.steps"], every["sampler.spacing"], every["seed"]) == ("300", '""', "0")
    environment = dict(tables["The last start of training"][1:])
    assert environment["step"] == "120"
    assert environment["packages: jax"] == starts[1]["packages"]["jax"]
    assert environment["devices: count"] == "4"
    assert len(tables["All 2 starts"]) == 3


def test_each_sampler_is_shown_with_what_was_found_of_its_samples(workdir):
    page = page_of(workdir)
    rows = page.tables["How they were drawn, and what was found of them"]
    assert rows[0][:6] == ["sampler", "step", "evaluations", "samples", "seed", "weights"]
    assert ["ddim, steps 4", "300", "4", "20", "0", "averaged", "not judged", "not judged"] in rows
    assert ["ancestral", "300", "8", "20", "0", "averaged", "24.5", "1"] in rows
    captions = page.of("figcaption")
    assert "20 samples by ddim, steps 4, 4 evaluations each, seed 0" in captions
    memorised = "1 of 20 memorised, median distance 24.5 grey levels, that of held-out images 30.2"
    assert f"20 samples by ancestral, step 300, seed 0: {memorised}" in captions


def test_a_picture_that_no_page_can_hold_is_told_and_left_out(workdir):
    folder = workdir / "samples/step_0000300_seed_0"
    Image.new("1", (14_786, 14_786)).save(folder / "grid.png")  # as large as that of 50,000 images of 32×32
    page = page_of(workdir)
    assert f"{folder / 'grid.png'} has too many pixels for a page, and is left out." in " ".join(page.of("p"))
    shown = [each["alt"] for each in page.attributes("img")]
    assert any(each.startswith("20 samples by ddim") for each in shown)
    assert not any(each.startswith("20 samples by ancestral") for each in shown)


def test_pictures_too_large_are_told_wherever_they_would_be_shown(workdir, monkeypatch):
    monkeypatch.setattr(embedded, "MOST_PIXELS", 1)
    assert page_of(workdir).attributes("img") == []
    sections = compare([read_run(workdir)])
    assert not any(section.images for section in sections)
    assert any("too many pixels" in hint.text for section in sections for hint in section.hints)


def test_a_sampler_is_called_by_what_was_chosen_of_it():
    made = config(
        **{"sampler.name": "heun", "sampler.churn_range": (0.5, 1.0), "guidance.scale": 2.0, "guidance.form": "score"}
    )
    assert drawn_by(to_dict(made)) == "heun, churn_range [0.5, 1.0], guidance scale 2.0, guidance form score"


def test_figures_of_features_are_shown_each_with_what_it_is_against(workdir):
    path = workdir / "evaluation/samples_20_step_0000300_seed_0/evaluation.json"
    found = json.loads(path.read_text())
    drawn = {name: found["nearest"][name] for name in DRAWN}
    against = {"reference": "digits, train", "reference_images": 80, "resize": "pytorch"} | drawn
    found["fid_pytorch"] = {"title": "FID", "distance": 12.5, "standard_error": 0.5, "infinity": 11.25, **against}
    found["fid_pytorch"]["infinity_standard_error"] = 0.75
    found["precision_recall_pytorch"] = {"title": "precision and recall", "precision": 0.75, "recall": 0.5, **against}
    path.write_text(json.dumps(found))
    page = page_of(workdir)
    shown = {title: page.tables[f"{title} (pytorch resize)"][1] for title in ("FID", "FID∞", "Precision", "Recall")}
    of = "20 samples by ancestral, step 300, seed 0"
    values = {"FID": "12.50 ± 0.50", "FID∞": "11.25 ± 0.75", "Precision": "0.75", "Recall": "0.5"}
    assert shown == {title: [of, value, "20", "300", "averaged", "80 of digits, train"] for title, value in values.items()}
    head, *rows = page.tables["How they were drawn, and what was found of them"]
    (row,) = [row for row in rows if row[0] == "ancestral"]
    assert dict(zip(head, row, strict=True))["FID (pytorch resize) (Fréchet distance)"] == "12.50 ± 0.50"
    summary = dict(page.tables["The run"][1:])
    assert summary["FID (pytorch resize)"] == f"12.50 ± 0.50 Fréchet distance ({of}, against 80 of digits, train)"


def test_agreement_with_each_classifier_is_shown(workdir):
    path = workdir / "evaluation/samples_20_step_0000300_seed_0/evaluation.json"
    found = json.loads(path.read_text())
    drawn = {name: found["nearest"][name] for name in DRAWN}
    for key, judge, share in (("agreement", "runs/a", 0.75), ("agreement by runs/b", "runs/b", 0.5)):
        found[key] = {"metric": "agreement", "agreement": share, "standard_error": 0.125, "classifier": judge, **drawn}
    path.write_text(json.dumps(found))
    tables = page_of(workdir).tables
    of = "20 samples by ancestral, step 300, seed 0"
    for judge, value in (("runs/a", "0.75 ± 0.12"), ("runs/b", "0.50 ± 0.12")):
        assert tables[f"Samples of the class asked for by {judge}"][1] == [of, value, "20", "300", "averaged"]
    head = tables["How they were drawn, and what was found of them"][0]
    assert [name for name in head if "asked for" in name] == [
        f"Samples of the class asked for by runs/{judge} (share of samples)" for judge in "ab"
    ]


@pytest.mark.parametrize("difference", ["count", "labels"])
def test_figures_of_other_samples_by_the_same_sampler_are_not_said_to_be_of_these(workdir, difference):
    place = workdir / "evaluation/samples_20_step_0000300_seed_0"
    if difference == "count":
        place.rename(workdir / "evaluation/samples_7_step_0000300_seed_0")
    else:
        found = json.loads((place / "evaluation.json").read_text())
        found["nearest"]["sample"]["labels"] = [3]
        (place / "evaluation.json").write_text(json.dumps(found))
    rows = page_of(workdir).tables["How they were drawn, and what was found of them"]
    assert all(len(row) == 6 for row in rows)  # no column of figures


def test_the_sliders_have_each_picture_as_it_was_drawn(workdir):
    page = page_of(workdir)
    images, controls = page.attributes("img"), page.attributes("input")
    for number, step in enumerate(STEPS):
        assert images[number]["alt"] == f"Samples after {step} of 300 training steps"
        (shown,), _ = pixels(images[number]["src"])
        np.testing.assert_array_equal(shown, grid(pictures(20, step), 10)[..., 0])
        assert (images[number]["width"], images[number]["height"]) == (str(91 * 8), str(19 * 8))
    for number, state in enumerate(chain()):
        image = images[len(STEPS) + number]
        assert image["alt"] == f"The state of the chains of the weights of step 300, after {number} of 8 evaluations"
        (shown,), _ = pixels(image["src"])
        np.testing.assert_array_equal(shown, grid(state, 10)[..., 0])
    assert [(each["max"], each["value"], each["aria-valuetext"]) for each in controls] == [
        ("2", "2", "step 300"),
        ("8", "8", "after 8 of 8 evaluations"),
    ]


def test_the_animation_goes_through_all_states_and_its_still_is_the_first(workdir):
    page = page_of(workdir)
    moving, info = pixels(page.attributes("img")[len(STEPS) + 9]["src"])
    assert (len(moving), info["loop"]) == (9, 0)
    for frame, state in zip(moving, chain(), strict=True):
        np.testing.assert_array_equal(frame[::8, ::8], grid(state, 10)[..., 0])
    (source,) = page.attributes("source")
    assert source["media"] == "(prefers-reduced-motion: reduce)"
    (still,), _ = pixels(source["srcset"])
    np.testing.assert_array_equal(still, moving[0])


def test_the_charts_say_their_gist(workdir):
    html = html_of(workdir)
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg role.*?</svg>", html, re.DOTALL)]
    told = {svg[0].text: svg[1].text for svg in charts}
    assert told["Loss by step"].startswith("loss from 0.7 at step 50 to 0.116667 at 300; least 0.116667 at 300, most 0.7 at 50")
    assert told["Variational bound"] == "step_0000300_test_seed_0: 3.25 ± 0.125."
    assert "Terms of the variational bound" in told


def test_a_workdir_with_settings_alone_says_what_to_run(tmp_path):
    workdir = tmp_path / "a run"
    write_config(config(), workdir)
    html = html_of(workdir)
    page = Page(html)
    check_form(page)
    assert page.of("h2") == SECTIONS
    commands = [shlex.split(each) for each in page.of("code")]
    assert len(commands) == 10
    assert all(each[:2] == ["python", "run.py"] and str(workdir) in each for each in commands)
    for words in (["--mode", "evaluate"], ["--config.eval.metrics=nearest"], ["--mode", "sample"]):
        assert any(set(words) <= set(each) for each in commands)


@pytest.mark.parametrize(("gone", "section"), [
    ("metrics.jsonl", "loss"),
    ("metrics.jsonl", "speed"),
    ("samples", "training-samples"),
    ("samples", "chain"),
    ("samples", "samplers"),
    ("evaluation", "nearest"),
    ("evaluation", "bits-per-dim"),
    ("evaluation", "evaluation"),
    ("environment.json", "environment"),
])  # fmt: skip
def test_what_is_missing_is_named_where_it_would_be(workdir, gone, section):
    path = workdir / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (found,) = [each for each in report(read_run(workdir)) if each.name == section]
    assert found.hints
    assert found.hints[0].command.startswith("python run.py --")
    assert not any((found.charts, found.images, found.sliders, found.tables))


def test_a_classifier_draws_nothing_and_is_told_so(tmp_path):
    made = digits_classifier.get_config()
    made.data.class_names = tuple("0123456789")
    write_config(made, tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.3, "accuracy": 0.125}\n')
    page = page_of(tmp_path)
    check_form(page)
    assert page.of("p").count("This run is of a classifier, which draws no images.") == 4
    assert page.tables["Accuracy on training batches by step"][1] == ["1", "0.125"]


def test_weights_alone_are_not_told_to_be_trained(tmp_path):
    write_config(config(), tmp_path)
    (tmp_path / "weights.safetensors").touch()
    page = page_of(tmp_path)
    assert sum("This folder holds weights alone" in each for each in page.of("p")) == 6
    assert all("--mode" in each for each in page.of("code"))


def test_a_run_that_enlarges_shows_what_it_enlarged_and_is_not_told_to_draw(workdir):
    write_config(config(**{"model.low_res_size": 4}), workdir)
    found = {each.name: each for each in report(read_run(workdir))}
    assert found["training-samples"].sliders
    for name in ("chain", "samplers", "nearest"):
        assert found[name].text == ["This run enlarges small images, and draws none without them: --mode edit --task enlarge."]
        assert not found[name].hints


def test_samples_of_which_nothing_is_noted_are_shown_all_the_same(workdir):
    (workdir / "samples/step_0000300_seed_0/samples.json").unlink()
    page = page_of(workdir)
    check_form(page)
    assert ["step_0000300_seed_0", *["not recorded"] * 5] in page.tables["How they were drawn, and what was found of them"]


def test_what_comes_from_a_run_cannot_become_markup(tmp_path):
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    workdir = tmp_path / "<b>&'run"
    made = config()
    made.data.class_names = (hostile, "</td>")
    made.data.directory = hostile
    write_config(made, workdir)
    (workdir / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    name = "'\"><svg onload=alert(3)>"
    found = {name: {"metric": name, "mean": 1.5, "standard_error": 0.5, "images": 2}}
    path = workdir / "evaluation" / "<i>x" / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found))
    page = page_of(workdir)
    check_form(page)
    assert len(page.attributes("script")) == 1
    assert not [attrs for _, attrs in page.tags if any(each.startswith("on") for each in attrs)]
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert hostile in dict(page.tables["All settings"][1:])["data.class_names"]
    assert page.tables[name][1][0] == "<i>x"


def test_many_pictures_and_long_logs_are_thinned_out_evenly(workdir):
    rows = [{"step": step, "loss": 1 / step, "images_per_second": 1.0} for step in range(1, 5001)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = (workdir / "samples/step_0000100.png").read_bytes()
    for step in range(1, 100):
        (workdir / f"samples/step_{step:07d}.png").write_bytes(first)
    page = page_of(workdir)
    table = page.tables["Loss by step, 100 of 5,000 lines"]
    assert (len(table), table[1][0], table[-1][0]) == (101, "1", "5,000")
    assert page.attributes("input")[0]["max"] == "39"
    assert any("40 of 102 pictures" in caption for caption in page.of("figcaption"))


def test_a_run_that_is_not_there_or_is_damaged_is_told(tmp_path, workdir):
    with pytest.raises(InvalidInput, match=r"no run at .*nowhere: expected a config\.json"):
        read_run(tmp_path / "nowhere")
    path = workdir / "evaluation/step_0000300_test_seed_0/vlb_terms.csv"
    whole = path.read_text()
    path.write_text(whole.replace("rmse", "rsme"))
    with pytest.raises(InvalidInput, match=r"vlb_terms\.csv: expected a table of t, bits_per_dim, rate, rmse"):
        read_run(workdir)
    path.write_text(whole)
    (workdir / "environment.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"environment\.json holds a dict: expected a list"):
        read_run(workdir)
    (workdir / "environment.json").write_text("[")
    with pytest.raises(InvalidInput, match=r"environment\.json: "):
        read_run(workdir)


def test_a_page_is_written_in_place_of_the_one_before(workdir):
    (workdir / "report.html").write_text("old")
    assert html_of(workdir).startswith("<!DOCTYPE html>")
    assert [path.name for path in workdir.glob("report*")] == ["report.html"]
    assert render("x", []).startswith("<!DOCTYPE html>")
