"""--mode demo: train the digits, draw some of each class, and have a classifier say whether they are what was asked for."""

import sys
import time
from pathlib import Path

from ml_collections import ConfigDict

from jax_ddpm.commands import sample, train
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.recognition import recognition

GOOD_ENOUGH = 0.95


def main(config: ConfigDict, workdir: Path) -> None:
    """Prints, as its last line, the share of samples that are recognised, the seconds all took, and where the grid is.

    The exit status is 1 where fewer than 95 % are recognised.
    """
    begin = time.perf_counter()
    if config.data.name != "digits" or not config.model.class_conditional:
        raise InvalidInput("the demo judges class-conditional digits: give it --config configs/digits.py")
    train.main(config, workdir)
    trained = time.perf_counter()
    drawn = sample.draw(config, workdir)
    judged = recognition(drawn.images, drawn.labels, digits("train"), digits("test"))
    end = time.perf_counter()
    print(f"trained in {trained - begin:.0f} s, drew {len(drawn.images)} images in {end - trained:.0f} s")
    print(
        f"a classifier that is right on {judged.held_out:.1%} of real digits it has not seen takes {judged.samples:.1%} of the "
        "samples for the digit asked for"
    )
    print(f"demo: accuracy={judged.samples:.3f} seconds={end - begin:.0f} grid={drawn.grid}", flush=True)
    if judged.samples < GOOD_ENOUGH:
        sys.exit(1)
