"""What a flow shows in Prefect's UI beside its states: progress, tables and links, as Prefect artifacts.

A server that is away for a while must not end the work: what cannot be shown is left out.
"""

import json
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from evaluation.report_schema import Report, read_report
from flows.registered_models import Verdict
from flows.score_tables import method_columns, methods_title
from flows.tables import Column, named_rows, percent, points
from pipeline.store.artifacts import Artifact
from pipeline.work.progress import OnProgress, telling

T = TypeVar("T")

VERDICT_COLUMNS: Sequence[Column[Verdict]] = (
    Column("model", lambda verdict: verdict.name),
    Column("verdict", lambda verdict: "passed" if verdict.passed else "FAILED"),
    Column("mIoU", lambda verdict: percent(verdict.miou)),
    Column("against baseline", lambda verdict: points(verdict.difference)),
    Column("evaluation", lambda verdict: verdict.evaluation[:16] if verdict.evaluation else "-"),
)


def key(text: str) -> str:
    """The text as Prefect wants an artifact's key: lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def progress_pages() -> OnProgress:
    """Keeps one progress artifact of the current run for each loop that it hears of."""
    pages: dict[str, UUID] = {}

    def on_progress(description: str, done: int, total: int) -> None:
        text, percent = f"{description}: {done} of {total}", 100 * done / max(total, 1)
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # the stage waits meanwhile; the next will do
            if description in pages:
                _try(lambda: update_progress_artifact(pages[description], percent, text))
            elif isinstance(page := _try(lambda: create_progress_artifact(percent, key(description), text)), UUID):
                pages[description] = page

    return on_progress


def track(
    items: Iterable[T], /, *, total: int, description: str, done: int = 0, note: Callable[[], str] = str
) -> Iterator[T]:
    """A `Track`: the terminal's bar, and a progress artifact of the current run where it takes longer."""
    return telling(progress_pages())(items, total=total, description=description, done=done, note=note)


def show_report(report: Artifact) -> None:
    """After an experiment: the table of methods and domains, and where the report is."""
    _try(lambda: _show_scores(read_report(report.folder)))
    file = report.folder.absolute() / "index.html"
    _try(lambda: create_link_artifact(file.as_uri(), "The report", "report", f"On the worker: `{file}`"))


def _show_scores(report: Report) -> None:
    rows = named_rows(method_columns(report), report.methods)
    create_table_artifact(rows, "scores", f"{methods_title(report)}: {report.name}")


def command_for_all(config: str, folders: Sequence[str]) -> str:
    """The command that trains on all these data sets, whatever characters their paths have."""
    listed = ", ".join(path if re.fullmatch(r"[\w./-]+", path) else json.dumps(path) for path in folders)
    return shlex.join(["flexseg", "run", config, "--set", f"data.generated=[{listed}]"])


def show_images(images: Artifact, folders: Sequence[str]) -> None:
    """After a regeneration: what is new, and how to train on all of it."""
    config = images.manifest.config
    rows = [
        {"condition": name, "new images": count, "numbered from": config["after"].get(name, 0)}
        for name, count in config["counts"].items()
        if count
    ]
    _try(lambda: create_table_artifact(rows, "new-images", f"New images in `{images.folder}`"))
    text = f"To train on all of them:\n\n```\n{command_for_all('CONFIG', folders)}\n```"
    _try(lambda: create_markdown_artifact(text, "how-to-train", "The config's own images and all regenerations"))


def show_verdicts(verdicts: Sequence[Verdict], headline: str, text: str) -> None:
    """After a re-evaluation: each model's score, its difference to the baseline, and the verdict."""
    print(text)
    rows = named_rows(VERDICT_COLUMNS, verdicts)
    _try(lambda: create_table_artifact(rows, "registered-models", headline))
    _try(lambda: create_markdown_artifact(text, "verdicts", headline))


def _try(show: Callable[[], T]) -> T | None:
    try:
        return show()
    except Exception:  # whatever goes wrong between here and the server
        logging.getLogger(__name__).warning("not shown in Prefect's UI", exc_info=True)
        return None
