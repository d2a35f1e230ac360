"""Checkpoints of a whole run: written beside the training, complete or not there at all."""

from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import make_directory
from jax_ddpm.training.state import Params, TrainState


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
        # Not by Orbax: of several processes one might find it made by another, and not wait where the others do.
        directory = directory.absolute() if read_only else make_directory(directory.absolute())
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=not read_only,
                create=False,
                read_only=read_only,
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
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

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
        self._manager.check_for_errors()
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state.replace(ema_params=None)),
                ema=ocp.args.StandardSave(state.ema_params),
                data=ocp.args.JsonSave(data.get_state()),
                config=ocp.args.JsonSave(config),
            ),
        )

    def restore(self, like: TrainState, data: grain.DatasetIterator) -> TrainState:
        """The newest checkpoint.

        Args:
          like: a state of the shapes, types and shardings wanted; arrays or jax.ShapeDtypeStruct.
          data: moved to the position of that step.
        """
        step = self._existing_step()
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like.replace(ema_params=None)),
                ema=ocp.args.StandardRestore(like.ema_params),
                data=ocp.args.JsonRestore(),
            ),
        )
        data.set_state(restored["data"])
        return restored["state"].replace(ema_params=restored["ema"])

    def restore_ema(self, like: Params) -> Params:
        """The average of the newest checkpoint alone; `like` as in `restore`."""
        step = self._existing_step()
        return self._manager.restore(step, args=ocp.args.Composite(ema=ocp.args.StandardRestore(like)))["ema"]

    def _existing_step(self) -> int:
        if self.latest_step is None:
            raise InvalidInput(f"no checkpoint in {self._manager.directory}: train first, with run.py --config FILE")
        return self.latest_step
