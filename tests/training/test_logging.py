"""What a run writes down survives being cut short and taken up again."""

import json
import re

import numpy as np
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the writer whose files are read below)

from jax_ddpm.training.logging import FILE_NAME, MetricsWriter, Progress, read_metrics


def events(workdir):
    """The scalars in TensorBoard's files: each record is a length, its checksum, an event, and its checksum."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        raw = path.read_bytes()
        while raw:
            length = int.from_bytes(raw[:8], "little")
            event = Event.FromString(raw[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            raw = raw[16 + length :]
    return found


def test_metrics_are_lines_of_json_and_tensorboard_scalars(tmp_path):
    with MetricsWriter(tmp_path, start=0) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.25})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert events(tmp_path) == [(1, "loss", 0.5), (2, "loss", 0.25)]


def test_what_was_written_beyond_the_checkpoint_is_dropped(tmp_path):
    with MetricsWriter(tmp_path, start=0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    with MetricsWriter(tmp_path, start=2) as writer:
        writer.write(3, {"loss": 30.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]
    assert all(json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines())


def test_an_image_is_written_for_tensorboard(tmp_path):
    with MetricsWriter(tmp_path, start=0) as writer:
        writer.write_image(1, "samples", np.zeros((4, 4, 3), np.uint8))
    assert [(step, tag) for step, tag, _ in events(tmp_path)] == [(1, "samples")]


def test_without_a_terminal_progress_is_plain_lines(capsys):
    with Progress(start=0, total=10, batch_size=4) as progress:
        progress.advance(0.5)
        rate = progress.report(1, {"loss": 0.5})
        progress.say("a word")
    out = capsys.readouterr().out
    assert "step 1/10  loss 0.5000" in out
    assert "a word" in out
    assert rate > 0


def test_a_line_says_the_accuracy_where_there_is_one(capsys):
    with Progress(start=0, total=10, batch_size=4) as progress:
        progress.report(1, {"loss": 0.5, "accuracy": 0.25, "accuracy_q1": 1.0})
    assert "step 1/10  loss 0.5000  accuracy 0.2500  " in capsys.readouterr().out


def test_paused_time_does_not_count(monkeypatch):
    clock = iter([0.0, 10.0, 60.0, 61.0])  # made, paused from 10 to 60, reported at 61
    monkeypatch.setattr("jax_ddpm.training.logging.time.perf_counter", lambda: next(clock))
    progress = Progress(start=0, total=100, batch_size=2)
    with progress.paused():
        pass
    assert progress.report(11, {"loss": 0.0}) == 11 / 11.0 * 2


def test_utilisation_is_told_where_an_image_has_a_least_time(capsys):
    with Progress(start=0, total=10, batch_size=4, seconds_at_peak=1e-9) as progress:
        rate = progress.report(1, {"loss": 0.5})
        assert progress.utilisation(rate) == {"flop_utilisation": rate * 1e-9}
    assert re.search(r"images/s  \d+\.\d% of peak FLOP/s  ", capsys.readouterr().out)
    with Progress(start=0, total=10, batch_size=4) as progress:
        assert progress.utilisation(progress.report(1, {"loss": 0.5})) == {}
    assert "peak" not in capsys.readouterr().out
