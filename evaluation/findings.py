"""What the numbers say, in words. Every claim is computed; nothing here knows which method is ours."""

from evaluation.summary import Numbers, best_method


def headline(numbers: Numbers) -> str:
    """The result in one line."""
    best, domains = best_method(numbers), len(numbers["domains"])
    score = best["miou"]["average"]["mean"]
    if score is None:
        return "No image could be evaluated"
    where = f"on average over {domains} unseen domains" if domains > 1 else f"on {numbers['domains'][0]['name']}"
    if len(numbers["methods"]) == 1:
        return f"{best['name']} reaches {100 * score:.1f} mIoU {where}"
    if best["name"] == numbers["baseline"]:
        return f"No method beats {best['name']}: {100 * score:.1f} mIoU {where}"
    gain = best["gain"]["average"]["mean"]
    against = (
        f"{signed(gain)} against {numbers['baseline']}" if gain is not None else f"{numbers['baseline']} has no score"
    )
    return f"{best['name']} reaches {100 * score:.1f} mIoU {where}, {against}"


def findings(numbers: Numbers) -> list[str]:
    """Two sentences: how far the result holds over domains and seeds, and where the errors lie."""
    best = best_method(numbers)
    if best["miou"]["average"]["mean"] is None:
        return []
    rivals = [row for row in numbers["methods"][1:] if row["gain"]["average"]["mean"] is not None]
    subject = max(rivals, key=lambda row: row["gain"]["average"]["mean"]) if rivals else None
    return ([_gain_sentence(subject, numbers)] if subject else []) + _error_sentence(best, numbers)


def _gain_sentence(row: Numbers, numbers: Numbers) -> str:
    """How the gain of the best rival of the baseline is spread over domains, and whether the seeds agree."""
    gains = {d["name"]: row["gain"][d["name"]]["mean"] for d in numbers["domains"]}
    gains = {name: gain for name, gain in gains.items() if gain is not None}
    up, seeds = sum(gain > 0 for gain in gains.values()), row["gain"]["average"]["values"]
    first, last = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
    text = f"Against {numbers['baseline']}, {row['name']} is ahead on {up} of {len(gains)} domains"
    if len(gains) > 1:
        text += f", from {signed(gains[last])} on {last} to {signed(gains[first])} on {first}"
    if len(seeds) == 1:
        return f"{text}; one seed only, so chance is not ruled out."
    average = row["gain"]["average"]["mean"]
    agree = sum((gain or 0.0) * average > 0 for gain in seeds)
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


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")
