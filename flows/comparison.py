"""`flexseg compare` and the gate of `flexseg evaluate --baseline`: which evaluations a name means, and what is said."""

import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation import report_schema, schema
from evaluation.compare import Comparison, compare, regressions
from flows.score_tables import comparison_table
from flows.segmenters import keys_by_method
from flows.tables import console
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact, ArtifactStore
from pipeline.store.manifest import read_manifest

SHOWN_SCENES = 5


def evaluations(place: str, store: ArtifactStore) -> list[Path]:
    """The folders of evaluations that `place` means: an evaluation's folder or key, or a run's folder or key.

    A run has a row per method: `runs/toy:flex-seg` names one, of which all seeds are taken.
    """
    name, method = place, ""
    if ":" in place and not Path(place).exists():
        name, _, method = place.rpartition(":")
    folder = Path(name)
    if (folder / schema.FILE).is_file():
        return [folder]
    if (folder / report_schema.FILE).is_file() and (folder / "manifest.json").is_file():
        place_of_store = folder.resolve().parents[1]
        return _rows_of_run(read_manifest(folder).inputs, method, place, ArtifactStore(place_of_store))
    if folder.is_dir():
        raise UserError(f"{name} holds neither an evaluation.json nor a run's report.json; give one of these folders")
    artifact = store.open(name)
    return (
        _rows_of_run(artifact.manifest.inputs, method, place, store)
        if artifact.kind == "report"
        else [_evaluation(artifact)]
    )


def _evaluation(artifact: Artifact) -> Path:
    if artifact.kind != "evaluation":
        raise UserError(
            f"{artifact.key[:16]} is a {artifact.kind!r} artifact, wanted an 'evaluation' (its key or folder) or a run;"
            " a segmenter is scored by flexseg evaluate CONFIG --model KEY"
        )
    return artifact.folder


def _rows_of_run(inputs: dict[str, str], method: str, place: str, store: ArtifactStore) -> list[Path]:
    rows = keys_by_method(inputs, "evaluation")
    if not method and len(rows) == 1:
        method = next(iter(rows))
    if method not in rows:
        raise UserError(f"{place} is a run of several methods: name one of {', '.join(rows)} as FOLDER:METHOD")
    return [store.open(key).folder for key in rows[method]]


def regressed(before: Sequence[Path], after: Path, name: str, max_drop: float | None) -> bool:
    """Prints how an evaluation compares with an earlier one; with a limit, one line per place where it fell below it.

    Returns whether there is such a place.
    """
    comparison = compare(before, [after])
    print_comparison(comparison, name, "this evaluation")
    lines = [] if max_drop is None else regressions(comparison, max_drop)
    for line in lines:
        print(f"flexseg: {line}", file=sys.stderr)
    return bool(lines)


def print_comparison(comparison: Comparison, baseline: str, other: str) -> None:
    """The table per domain, the scenes that changed most, and the answer in one line."""
    out = console()
    out.print(comparison_table(comparison, baseline, other))
    changes = [(abs(c.gain), domain, c) for domain, scenes in comparison.changes.items() for c in scenes]
    for _, domain, change in sorted(changes, key=lambda entry: -entry[0])[:SHOWN_SCENES]:
        out.print(
            f"{domain} {change.id}: {100 * change.before:.1f}% of the pixels right, then {100 * change.after:.1f}%",
            soft_wrap=True,
        )
    out.print(answer(comparison, baseline, other), soft_wrap=True)


def answer(comparison: Comparison, baseline: str, other: str) -> str:
    """Whether the difference is real, and of what that is said: of methods, or of two trained networks."""
    mean = comparison.mean
    numbers = (
        f"{100 * mean.difference:+.2f} mIoU over {len(comparison.domains)} domain(s), 95% interval"
        f" {100 * mean.low:+.2f} to {100 * mean.high:+.2f}, p = {mean.p:.2g}"
    )
    about = (
        "about these methods, over other seeds and images like these"
        if mean.methods
        else "about these trained networks on images like these; one seed says nothing about their methods"
    )
    if not mean.significant:
        return f"No difference that could not be chance between {baseline} and {other}: {numbers} ({about})."
    return f"{other} is {'better' if mean.difference > 0 else 'worse'} than {baseline}: {numbers} ({about})."
