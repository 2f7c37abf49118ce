"""What the numbers say, in words. Every claim is computed; nothing here knows which method is ours."""

from evaluation.method_rows import Numbers
from evaluation.summary import best_method


def headline(numbers: Numbers) -> str:
    """The result in one line."""
    best, domains = best_method(numbers), len(numbers["domains"])
    scored = sum(domain["images"] > 0 for domain in numbers["domains"])
    count = f"{domains}" if scored == domains else f"{scored} of {domains}"
    score = best["miou"]["average"]["mean"]
    if score is None:
        return "No image could be evaluated"
    where = f"on average over {count} unseen domains" if domains > 1 else f"on {numbers['domains'][0]['name']}"
    if len(numbers["methods"]) == 1:
        return f"{best['name']} reaches {100 * score:.1f} mIoU {where}"
    if best["name"] == numbers["baseline"]:
        return f"No method beats {best['name']}: {100 * score:.1f} mIoU {where}"
    gain = best["gain"]["average"]["mean"]
    against = (
        f"{signed(gain)} against {numbers['baseline']}" if gain is not None else f"{numbers['baseline']} has no score"
    )
    chance = ", which may be chance" if may_be_chance(best["gain"]["average"]) else ""
    return f"{best['name']} reaches {100 * score:.1f} mIoU {where}, {against}{chance}"


def may_be_chance(gain: Numbers) -> bool:
    """Whether a gain was tested and not found significant."""
    return gain["p"] is not None and gain["verdict"] is None


def findings(numbers: Numbers) -> list[str]:
    """Two sentences: how far the result holds over domains and seeds, and where the errors lie."""
    best = best_method(numbers)
    if best["miou"]["average"]["mean"] is None:
        return []
    rivals = [row for row in numbers["methods"][1:] if row["gain"]["average"]["mean"] is not None]
    subject = max(rivals, key=lambda row: row["gain"]["average"]["mean"]) if rivals else None
    return ([_gain_sentence(subject, numbers)] if subject else []) + _error_sentence(best, numbers)


def _gain_sentence(row: Numbers, numbers: Numbers) -> str:
    """How the best rival's gain over the baseline spreads over domains, how sure it is, and whether the seeds agree."""
    gains = {d["name"]: row["gain"][d["name"]]["mean"] for d in numbers["domains"]}
    gains = {name: gain for name, gain in gains.items() if gain is not None}
    up, seeds = sum(gain > 0 for gain in gains.values()), row["gain"]["average"]["values"]
    first, last = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    text = f"Against {numbers['baseline']}, {row['name']} is ahead on {up} of {len(gains)} domains"
    if len(gains) > 1:
        text += f", from {signed(gains[last])} on {last} to {signed(gains[first])} on {first}"
    average = row["gain"]["average"]
    if average["low"] is not None:
        text += (
            f"; on average {signed(average['mean'])}, with {signed(average['low'])} to {signed(average['high'])} as the"
        )
        text += " 95% interval over images"
    if len(seeds) == 1:
        return f"{text}; one seed only, so the luck of one training is not ruled out."
    agree = sum((gain or 0.0) * average["mean"] > 0 for gain in seeds)
    return f"{text}; the average difference has the same sign in {agree} of {len(seeds)} seeds."


def _error_sentence(row: Numbers, numbers: Numbers) -> list[str]:
    keys = ("boundary_error", "interior_error")
    boundary, interior = (row[key]["average"]["mean"] for key in keys)
    if boundary is None or interior is None:
        return []
    text = (
        f"Within {numbers['band']} px of another class {row['name']} gets {100 * boundary:.0f}% of the pixels wrong,"
        f" elsewhere {100 * interior:.0f}%"
    )
    base = numbers["methods"][0]
    if row is base or base["miou"]["average"]["mean"] is None:
        return [f"{text}."]
    changes = [signed(row[key]["average"]["mean"] - base[key]["average"]["mean"]) for key in keys]
    return [f"{text}; against {base['name']} that is {changes[0]} and {changes[1]} points."]


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign; a difference that rounds to 0 has none."""
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", "−")
