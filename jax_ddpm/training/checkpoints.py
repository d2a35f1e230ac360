"""Checkpoints of a whole run: written beside the training, complete or not there at all."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grain
import jax
import orbax.checkpoint as ocp
from jax.errors import JaxRuntimeError
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint._src.metadata import array_metadata_store

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import NotWritten, absolute, by_all, is_first_process, is_remote, make_directory, move, wait_for_all
from jax_ddpm.training.digest import digest
from jax_ddpm.training.object_storage import commit_by_file, is_unreachable, open_to_orbax
from jax_ddpm.training.state import Params, TrainState

Found = TypeVar("Found")
PIECE = 2**12
"""An array that lies whole on all devices is shared out among them to be written where each writes so many bytes or more."""


class Checkpoints:
    """The checkpoints in a folder, one a step, each with the train state, the average, the data's position and the config.

    A context manager: leaving it waits for what is still being written.
    """

    def __init__(self, directory: Path, *, keep_last: int = 1, keep_every: int = 0, read_only: bool = False) -> None:
        """Opens a folder, or makes it; what an interrupted write left behind is removed, unless it is opened read-only.

        Args:
          keep_last: how many of the newest to keep.
          keep_every: also keep each whose step is a multiple of this; 0 keeps no others.
          read_only: touch nothing, so that a run that goes on is not disturbed.
        """
        policies: list[Any] = [checkpoint_managers.LatestN(keep_last)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._read_only = read_only
        # Not by Orbax: of several processes one might find it made by another, and not wait where the others do.
        directory = absolute(directory) if read_only else make_directory(absolute(directory))
        self._is_remote = is_remote(directory)
        open_to_orbax(directory)
        _share_out_large_arrays_alone()
        commit = commit_by_file() if self._is_remote else None
        self._reader = _reader(commit)
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=not read_only,
                create=False,
                read_only=read_only,
                atomicity_options=commit,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits until all is on disk; raises what went wrong in the background.

        Not where this one of several processes has failed: the others may never come to where it would wait for them.
        """
        if kind is not None and jax.process_count() > 1:
            return
        self._reader.close()
        self._finish_writing()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def wait(self) -> str:
        """Waits until all is on disk, where no process has failed; says which one is the last."""
        self._finish_writing()
        return self._last_on_disk()

    @contextlib.contextmanager
    def last_told(self) -> Iterator[None]:
        """Within it, another file that could not be written is told together with the last whole checkpoint.

        One that is still being written may become whole, and is waited for; not where there are other processes, which may
        have to be told before it can.
        """
        try:
            yield
        except NotWritten as error:
            if jax.process_count() == 1:
                self._finish_writing()
            raise NotWritten(f"{error}\n{self._how_to_go_on()}") from error

    def _finish_writing(self) -> None:
        with self._failed_writes_told():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def _last_on_disk(self) -> str:
        try:
            self._manager.reload()
            steps = self._manager.all_steps()
        except Exception:  # the storage that could not be written to may not let itself be read either
            return "Which checkpoint is the last whole one cannot be learned now"
        return f"The last whole checkpoint is that of step {max(steps)}" if steps else "No checkpoint is whole yet"

    def _how_to_go_on(self) -> str:
        remedy = "See to the storage" if self._is_remote else "Make room, or see to the rights"
        return f"{self._last_on_disk()}. {remedy}, and go on by the same command"

    def save(self, state: TrainState, data: grain.DatasetIterator, config: dict[str, Any]) -> None:
        """Copies everything to the host and returns; writing goes on in the background.

        Args:
          state: `state.step` names the checkpoint. Its buffers may be donated at once.
          data: the iterator that gave the batches up to this step.
          config: nested plain dicts.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        ema, rest, position = state.ema_params, state.replace(ema_params=None), data.get_state()
        digests = {"state": digest(rest), "ema": digest(ema), "data": position}
        with self._failed_writes_told():
            self._manager.check_for_errors()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(rest),
                    ema=ocp.args.StandardSave(ema),
                    data=ocp.args.JsonSave(position),
                    config=ocp.args.JsonSave(config),
                    digest=ocp.args.JsonSave(digests),
                ),
            )

    def restore(self, like: TrainState, data: grain.DatasetIterator) -> TrainState:
        """The newest checkpoint that is not damaged; newer ones, which are, are put aside, and told.

        Args:
          like: a state of the shapes, types and shardings wanted; arrays or jax.ShapeDtypeStruct.
          data: moved to the position of that step.
        """

        def read(step: int) -> tuple[TrainState, Any]:
            rest = ocp.args.StandardRestore(like.replace(ema_params=None))
            ema = ocp.args.StandardRestore(like.ema_params)
            found = self._read(step, state=rest, ema=ema, data=ocp.args.JsonRestore())
            return found["state"].replace(ema_params=found["ema"]), found["data"]

        (state, position), _ = self._newest(read)
        data.set_state(position)
        return state

    def restore_ema(self, like: Params) -> tuple[Params, int]:
        """The average of the newest checkpoint that is not damaged, and its step; `like` as in `restore`."""
        return self._newest(lambda step: self._read(step, ema=ocp.args.StandardRestore(like))["ema"])

    def restore_params(self, like: TrainState) -> tuple[Params, int]:
        """The parameters as the last step of the newest whole checkpoint left them, and its step; `like` as in `restore`."""
        rest = like.replace(ema_params=None)
        return self._newest(lambda step: self._read(step, state=ocp.args.StandardRestore(rest))["state"].params)

    def _read(self, step: int, **items: Any) -> dict[str, Any]:
        """What a checkpoint holds, by name; raises Damaged where it cannot be read, or is not what was written."""
        if (self._manager.directory / str(step) / "digest").exists():  # which checkpoints of old do not have
            items["digest"] = ocp.args.JsonRestore()
        found, why = {}, ""
        try:
            found = self._reader.restore(self._manager.directory / str(step), args=ocp.args.Composite(**items))
        except (JaxRuntimeError, MemoryError, PermissionError):
            raise  # it may be whole
        except Exception as error:  # each of Orbax' parts has another one for what it cannot read
            why = f"{type(error).__name__}: {_line(error)}"
            if self._is_remote and is_unreachable(error):
                raise InvalidInput(f"the checkpoint of step {step} may be whole, but cannot be read now: {why}") from error
        if not by_all(not why):
            raise Damaged(why or "another process cannot read it")
        for name, expected in (found.get("digest") or {}).items():
            if name in items and (found[name] if name == "data" else digest(found[name])) != expected:
                raise Damaged(f"its {name!r} is not what was written")
        return found

    def _newest(self, read: Callable[[int], Found]) -> tuple[Found, int]:
        """What `read` finds in the newest checkpoint that is not damaged, and the step."""
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = read(step)
            except Damaged as error:
                damaged[step] = str(error)
                continue
            for number, why in damaged.items():
                print(f"the checkpoint of step {number} is damaged and left out ({why})", flush=True)
                self._put_aside(number)
            return found, step
        if damaged:
            each = "\n".join(f"  step {step}: {why}" for step, why in damaged.items())
            raise InvalidInput(f"none of the checkpoints in {self._manager.directory} can be read:\n{each}")
        raise InvalidInput(f"no checkpoint in {self._manager.directory}: train first, with run.py --config FILE")

    def _put_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way, for its step will come again."""
        if self._read_only:
            return
        aside = make_directory(self._manager.directory.parent / "damaged_checkpoints")
        if is_first_process():
            number = len(list(aside.glob(f"{step}_*"))) + 1  # its step may have been damaged before
            move(self._manager.directory / str(step), aside / f"{step}_{number}")
        wait_for_all(f"step {step} is put aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _failed_writes_told(self) -> Iterator[None]:
        """Within it, what Orbax raises of a write in the background, such as on a full disk, is an InvalidInput."""
        try:
            yield
        except JaxRuntimeError:
            raise  # of a process that is gone, not of the disk
        except Exception as error:
            if not (self._is_remote or isinstance(error, (OSError, ValueError, RuntimeError))):
                raise
            raise InvalidInput(
                f"a checkpoint could not be written into {self._manager.directory}: {_line(error)}\n{self._how_to_go_on()}"
            ) from error


class Damaged(Exception):
    """A checkpoint is not what was written."""


def _share_out_large_arrays_alone() -> None:
    """Has Orbax write an array in pieces, one by each device that holds it, only where they are large.

    By itself it cuts up every bias that the number of devices divides, by 256 chips into 256 pieces. On four devices a tiny
    network's checkpoint takes the processor 1.6 times as long by that.
    """
    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=PIECE, array_metadata_store=array_metadata_store.Store()
    )
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


def _reader(commit: ocp.options.AtomicityOptions | None) -> ocp.Checkpointer:
    """What reads for this process alone, whatever the others find.

    By the manager each would wait at the end for the others. Where the state is split they read other files, and one whose
    files are damaged never comes there.
    """
    number = jax.process_index()
    alone: dict[str, Any] = {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(primary_host=number, active_processes={number}),
        "atomicity_options": commit,
    }
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(**alone)), **alone)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
