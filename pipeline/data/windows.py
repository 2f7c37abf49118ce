"""Where sliding windows lie: over an image that a network predicts, and over the canvas that a generator paints."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows of `window` begin so that they cover `length` in steps of at most `stride`, one axis at a time.

    The last one is moved back so that it ends at `length`; where the window is longer than that, it is the only one and
    begins at 0. ValueError where steps are longer than windows: they would leave gaps.
    """
    if not 0 < stride <= window:
        raise ValueError(f"windows of {window} every {stride} leave gaps: wanted a stride from 1 to {window}")
    last = max(0, length - window)
    return [*range(0, last, stride), last]
