"""Which crop rare-class sampling takes."""

from pipeline.data.rare_classes import first_good


def test_the_first_good_draw_is_taken_and_the_last_of_ten_where_none_is() -> None:
    draws = iter(range(100))
    assert first_good(lambda: next(draws), lambda drawn: drawn >= 3) == 3
    assert first_good(lambda: next(draws), lambda drawn: drawn < 0) == 4 + 9
    assert next(draws) == 14
