"""What a run writes down survives being cut short and taken up again."""

import json
import re

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jax_ddpm.files import NotWritten
from jax_ddpm.training import logging
from jax_ddpm.training.logging import FILE_NAME, MetricsWriter, Progress, read_metrics
from tests.full_disk import files_end_at


def records(workdir):
    """The events in TensorBoard's files: each record is a length, its checksum, an event, and its checksum."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        raw = path.read_bytes()
        while raw:
            length = int.from_bytes(raw[:8], "little")
            yield Event.FromString(raw[12 : 12 + length])
            raw = raw[16 + length :]


def events(workdir):
    """The scalars in them."""
    return [(event.step, value.tag, value.simple_value) for event in records(workdir) for value in event.summary.value]


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


def test_tensorboard_is_told_from_which_step_on_older_events_do_not_count(tmp_path):
    with MetricsWriter(tmp_path, start=2) as writer:
        writer.write(3, {"loss": 1.0})
    version, begun, _ = records(tmp_path)
    assert version.file_version == "brain.Event:2", "by which it knows the file"
    assert (begun.step, begun.session_log.status) == (3, SessionLog.START)


def test_events_are_there_after_a_while_and_when_they_are_asked_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logging.time, "monotonic", lambda: now[0])
    with MetricsWriter(tmp_path, start=0) as writer:
        writer.write(1, {"loss": 0.5})
        assert not events(tmp_path)
        now[0] = 31.0
        writer.write(2, {"loss": 0.25})
        assert len(events(tmp_path)) == 2
        writer.write(3, {"loss": 0.125})
        writer.flush()
        assert len(events(tmp_path)) == 3


def test_an_image_is_written_for_tensorboard(tmp_path):
    with MetricsWriter(tmp_path, start=0) as writer:
        writer.write_image(1, "samples", np.zeros((4, 4, 3), np.uint8))
    assert [(step, tag) for step, tag, _ in events(tmp_path)] == [(1, "samples")]


def write_much(workdir):
    with files_end_at(2000), MetricsWriter(workdir, start=0) as writer:
        for step in range(1, 13):  # more than tensorboardX would have waiting
            writer.write(step, {"loss": 1.0})
            writer.write_image(step, "samples", np.random.default_rng(step).integers(0, 256, (step, 20, 3), np.uint8))


def test_events_that_the_disk_has_no_room_for_are_told_and_the_run_does_not_wait_for_them(tmp_path):
    with pytest.raises(NotWritten, match=r"/tensorboard/events\.\S+ could not be written: OSError: .*File too large"):
        write_much(tmp_path)
    assert 1 < len(read_metrics(tmp_path)) < 12


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
