"""What the numbers say, in words. Every claim is computed; nothing here knows which method is ours."""

from evaluation.report_schema import AVERAGE, Gain, MethodRow, Report


def headline(report: Report) -> str:
    """The result in one line."""
    best, domains = report.best, len(report.domains)
    scored = sum(domain.images > 0 for domain in report.domains)
    count = f"{domains}" if scored == domains else f"{scored} of {domains}"
    score = best.miou[AVERAGE].mean
    if score is None:
        return "No image could be evaluated"
    where = f"on average over {count} unseen domains" if domains > 1 else f"on {report.domains[0].name}"
    if len(report.methods) == 1:
        return f"{best.name} reaches {100 * score:.1f} mIoU {where}"
    if best.name == report.baseline:
        return f"No method beats {best.name}: {100 * score:.1f} mIoU {where}"
    gain = best.gain[AVERAGE].mean
    against = f"{signed(gain)} against {report.baseline}" if gain is not None else f"{report.baseline} has no score"
    return f"{best.name} reaches {100 * score:.1f} mIoU {where}, {against}{_caveat(best.gain[AVERAGE])}"


def _caveat(gain: Gain) -> str:
    """What stands between a difference and a claim."""
    if may_be_chance(gain):
        return ", which may be chance"
    return "" if gain.about != "networks" else " (these trained networks; one seed says nothing about the methods)"


def may_be_chance(gain: Gain) -> bool:
    """Whether a gain was tested and not found significant."""
    return gain.p is not None and gain.verdict is None


def findings(report: Report) -> list[str]:
    """Two sentences: how far the result holds over domains and seeds, and where the errors lie."""
    if report.best.miou[AVERAGE].mean is None:
        return []
    gains = [(gain, row) for row in report.methods[1:] if (gain := row.gain[AVERAGE].mean) is not None]
    subject = max(gains, key=lambda pair: pair[0]) if gains else None
    return ([_gain_sentence(*subject, report)] if subject else []) + _error_sentence(report.best, report)


def _gain_sentence(average: float, row: MethodRow, report: Report) -> str:
    """How the best rival's gain over the baseline spreads over domains, how sure it is, and whether the seeds agree."""
    gains = {d.name: gain for d in report.domains if (gain := row.gain[d.name].mean) is not None}
    first, last = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    ahead = sum(gain > 0 for gain in gains.values())
    text = f"Against {report.baseline}, {row.name} is ahead on {ahead} of {len(gains)} domains"
    if len(gains) > 1:
        text += f", from {signed(gains[last])} on {last} to {signed(gains[first])} on {first}"
    found = row.gain[AVERAGE]
    if found.low is not None and found.high is not None:
        over = "over seeds and images" if found.about == "methods" else "over images"
        text += f"; on average {signed(average)}, 95% interval {over} {signed(found.low)} to {signed(found.high)}"
    if found.about != "methods":
        return f"{text}. One seed tells about these trained networks only, nothing about the methods."
    agree = sum((value or 0.0) * average > 0 for value in found.values)
    return f"{text}; the average difference has the same sign in {agree} of {len(found.values)} seeds."


def _error_sentence(row: MethodRow, report: Report) -> list[str]:
    boundary, interior = row.boundary_error[AVERAGE].mean, row.interior_error[AVERAGE].mean
    if boundary is None or interior is None:
        return []
    text = (
        f"Within {report.band} px of another class {row.name} gets {100 * boundary:.0f}% of the pixels wrong,"
        f" elsewhere {100 * interior:.0f}%"
    )
    base = report.methods[0]
    before = base.boundary_error[AVERAGE].mean, base.interior_error[AVERAGE].mean
    if row is base or before[0] is None or before[1] is None:
        return [f"{text}."]
    changes = signed(boundary - before[0]), signed(interior - before[1])
    return [f"{text}; against {base.name} that is {changes[0]} and {changes[1]} points."]


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign; a difference that rounds to 0 has none."""
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "−")
