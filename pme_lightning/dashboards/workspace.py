"""A saved view of a Weights & Biases project, with the panels of :mod:`pme_lightning.dashboards.panels`.

    python -m pme_lightning.dashboards.workspace ENTITY [--project PROJECT] [--print]

saves it, or prints it as JSON without asking any server. It needs the package ``wandb-workspaces``.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from pme_lightning.cli import leave_closed_pipe
from pme_lightning.dashboards.panels import SECTIONS, Chart, Curve, Panel, Scatter
from pme_lightning.errors import BadInput, first_line

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

# Columns of the table of runs, from the left.
COLUMNS = (
    "run:displayName",
    "summary:test.auc",
    "summary:test.logloss",
    "summary:embedding.bytes",
    "summary:embedding.fraction",
    "config:command",
)


def workspace(entity: str, project: str, name: str = "PME Lightning") -> Workspace:
    """Returns the view, not saved yet: ``.save()`` does.

    Below the panels of the template are those that Weights & Biases makes of whatever else a run logs, such as the
    histogram of each field.

    Args:
        entity: The user or team.
        project: The project.
        name: The view's name.

    Raises:
        BadInput: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces as ws
    except ModuleNotFoundError as error:
        raise BadInput("saved views need a package: pip install 'pme-lightning[dashboards]'") from error
    sections = [
        ws.Section(
            name=section.name,
            panels=[_panel(panel) for panel in section.panels],
            is_open=section.only is None,
            layout_settings=ws.SectionLayoutSettings(columns=3, rows=2),
        )
        for section in SECTIONS
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        runset_settings=ws.RunsetSettings(pinned_columns=list(COLUMNS)),
        auto_generate_panels=True,
    )


def _panel(panel: Panel) -> Any:
    from wandb_workspaces.reports import v2 as wr

    if isinstance(panel, Curve):
        return wr.LinePlot(title=panel.title, x=panel.x, y=list(panel.y), log_y=panel.log_y or None)
    if isinstance(panel, Scatter):
        return wr.ScatterPlot(title=panel.title, x=wr.SummaryMetric(panel.x), y=wr.SummaryMetric(panel.y))
    if isinstance(panel, Chart):
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": f"{panel.key}_table"}},
            chart_name=panel.kind,
            chart_fields={name: column for name, column in panel.fields if column is not None},
            chart_strings={"title": panel.title},
        )
    return wr.WeavePanelSummaryTable(table_name=panel.key)


def main() -> None:
    """Saves or prints the view."""
    parser = argparse.ArgumentParser(prog="python -m pme_lightning.dashboards.workspace")
    parser.description = "Saves a view of a Weights & Biases project with the panels of PME Lightning."
    parser.add_argument("entity", help="user or team")
    parser.add_argument("--project", default="pme-lightning")
    parser.add_argument("--name", default="PME Lightning", help="name of the view")
    parser.add_argument("--print", action="store_true", help="print it as JSON; no server is asked")
    options = parser.parse_args()
    try:
        view = workspace(options.entity, options.project, options.name)
        if options.print:
            print(json.dumps(view._to_model().model_dump(by_alias=True, exclude_none=True), indent=2))
        else:
            _save(view)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        leave_closed_pipe()


def _save(view: Workspace) -> None:
    import wandb
    from wandb.errors import Error

    try:
        if not wandb.login(prompt=False):
            raise BadInput("there is no API key: wandb login, or set WANDB_API_KEY")
        view.save()
    except (Error, ValueError) as error:
        raise BadInput(f"not saved: {first_line(error)}") from error


if __name__ == "__main__":
    main()
