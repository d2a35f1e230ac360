"""The report of one run: which sections it has."""

from jax_ddpm.reporting.judged_sections import evaluation, nearest, samplers, terms
from jax_ddpm.reporting.parts import Section, Table
from jax_ddpm.reporting.telling import by_training, changed, flat, written
from jax_ddpm.reporting.trained_sections import chain, drawings, loss, speed, summary
from jax_ddpm.reporting.workdirs import Run


def report(run: Run) -> list[Section]:
    """All there is to say of a run; each section says it, or how to come by it."""
    made = (summary, loss, terms, speed, drawings, chain, samplers, nearest, evaluation, settings, environment)
    return [make(run) for make in made]


def settings(run: Run) -> Section:
    """What was chosen, and every other setting."""
    chosen = [(name, new, old) for name, (old, new) in changed(run.config).items()]
    all_of_them = [(name, written(value)) for name, value in flat(run.config).items()]
    tables = [
        Table("Settings that are not the defaults", ("setting", "value", "default"), chosen),
        Table("All settings", ("setting", "value"), all_of_them, folded=True),
    ]
    return Section("config", "Config", tables=tables)


def environment(run: Run) -> Section:
    """What each start of training ran on."""
    if not run.starts:
        missing = "Not recorded: training notes it when it starts, and did not here."
        return Section("environment", "Environment", hints=[by_training(run, missing)])
    columns = [_told(start) for start in run.starts]
    names = list(dict.fromkeys(name for column in columns for name in column))
    last = [(name, columns[-1].get(name, "")) for name in names]
    tables = [Table("The last start of training", ("what", "value"), last)]
    if len(columns) > 1:
        rows = [tuple(column.get(name, "") for name in names) for column in columns]
        tables.append(Table(f"All {len(columns)} starts", names, rows, folded=True))
    return Section("environment", "Environment", tables=tables)


def _told(start: dict[str, object]) -> dict[str, str]:
    """An entry of environment.json, flat."""
    rows: dict[str, str] = {}
    for name, value in start.items():
        rows |= {f"{name}: {key}": str(each) for key, each in value.items()} if isinstance(value, dict) else {name: str(value)}
    return rows
