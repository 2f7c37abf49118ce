"""The terminal's tables of a sweep."""

from rich.console import Console

from flows.tables import methods_table


def _stat(mean: float | None, spread: float | None) -> dict[str, float | None]:
    return {"mean": mean, "spread": spread}


def test_a_table_for_each_score_with_means_and_spreads() -> None:
    method = {
        "name": "all",
        "seeds": [0, 1, 2],
        "miou": {"fog": _stat(0.123, 0.01), "snow": _stat(None, None), "average": _stat(0.2, None)},
        "boundary_error": {"fog": _stat(0.6, 0.02), "snow": _stat(None, None), "average": _stat(0.61, 0.03)},
        "interior_error": {"fog": _stat(0.3, 0.02), "snow": _stat(None, None), "average": _stat(0.31, 0.03)},
    }
    report = {"band": 2, "domains": [{"name": "fog"}, {"name": "snow"}], "methods": [method]}
    console = Console(width=120, record=True)
    for score in ("miou", "boundary_error", "interior_error"):
        console.print(methods_table(report, score))
    text = " ".join(console.export_text().split())  # titles are wrapped
    for part in ("12.3 ± 1.0", "60.0 ± 2.0", "31.0 ± 3.0", "within 2 px", "farther than 2 px", "deviation of 3 seeds"):
        assert part in text
