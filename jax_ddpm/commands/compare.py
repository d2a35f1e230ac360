"""--mode compare: one page on which several runs lie side by side."""

from pathlib import Path

from ml_collections import ConfigDict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import place
from jax_ddpm.reporting.comparison import compare
from jax_ddpm.reporting.page import write_page
from jax_ddpm.reporting.workdirs import read_run


def main(config: ConfigDict, workdir: Path) -> None:
    """Writes the page `compare.out` of the runs in `compare.workdirs`, and says where it is.

    Raises:
      InvalidInput: there are not two runs at least, one of them is not there or named twice, or one of their files is damaged.
    """
    workdirs = [place(name.strip()) for name in ",".join(config.compare.workdirs).split(",") if name.strip()]
    if len(workdirs) < 2 or len(set(workdirs)) < len(workdirs):
        given = ", ".join(map(str, workdirs)) or "none"
        raise InvalidInput(f"compare.workdirs is {given}: expected two runs or more, each once, --workdirs runs/a,runs/b")
    runs = [read_run(each) for each in workdirs]
    out = place(config.compare.out)
    print(f"comparison: {write_page(out, f'{len(runs)} runs compared', compare(runs))}", flush=True)
