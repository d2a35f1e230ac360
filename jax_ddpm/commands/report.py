"""--mode report: one page of all that a workdir holds."""

from pathlib import Path

from ml_collections import ConfigDict

from jax_ddpm.reporting.page import write_page
from jax_ddpm.reporting.report import report
from jax_ddpm.reporting.workdirs import read_run

FILE_NAME = "report.html"


def main(config: ConfigDict, workdir: Path) -> None:
    """Writes workdir/report.html, in place of the one before, and says where it is.

    The settings shown are those that the workdir holds. Nothing is computed or drawn anew: what is missing is named in the
    page, with the command that makes it.

    Raises:
      InvalidInput: there is no run, or one of its files is damaged.
    """
    run = read_run(workdir)
    print(f"report: {write_page(workdir / FILE_NAME, f'Report of {run.name}', report(run))}", flush=True)
