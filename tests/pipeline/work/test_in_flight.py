"""What is in flight is halved when a GPU's memory is full, and nothing else is taken for that."""

import pickle
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TryAgainError
from pipeline.work.devices import MemoryFullError
from pipeline.work.in_flight import InFlight
from tests.memory import FULL, SmallCard


@given(count=st.integers(1, 40), most=st.integers(1, 40), fits=st.integers(1, 40))
def test_everything_is_done_once_and_in_order(count: int, most: int, fits: int) -> None:
    card, in_flight = SmallCard(fits), InFlight("image", most, "machine.batch", "smaller")
    done = [item for part in in_flight.parts(lambda part: card.hold(range(count)[part]), count) for item in part]
    assert done == list(range(count))
    assert in_flight.most <= most
    assert max(card.held) <= min(fits, most)
    # evenly: no part is smaller by more than one than another of the same call, where all of them fit
    if card.refused == 0:
        assert max(card.held) - min(card.held) <= 1


def test_it_is_said_once_and_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    card, in_flight = SmallCard(2), InFlight("image", 8, "machine.batch", "smaller")
    for _ in range(2):
        assert sum(len(part) for part in in_flight.parts(lambda part: card.hold(range(8)[part]), 8)) == 8
    said = capsys.readouterr().err.splitlines()
    assert card.refused == 2 and len(said) == 2
    assert said[1] == (
        f"flexseg: the GPU's memory is full ({FULL}): 2 images at once from now on instead of 4 (machine.batch)"
    )


def test_one_alone_that_does_not_fit_ends_in_one_line() -> None:
    card, in_flight = SmallCard(0), InFlight("image", 3, "machine.batch", "lower generation.size")
    with pytest.raises(TryAgainError) as caught:
        list(in_flight.parts(lambda part: card.hold(range(3)[part]), 3))
    assert str(caught.value) == (
        f"one image alone does not fit into the GPU's memory ({FULL}): lower generation.size; what was finished is kept"
    )
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(travelled, MemoryFullError) and str(travelled) == str(caught.value)


def test_what_the_failed_call_held_is_let_go() -> None:
    gone: list[bool] = []

    def work(part: slice) -> bool:
        large = torch.zeros(4)
        weakref.finalize(large, gone.append, True)
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError(FULL)
        return bool(gone)

    assert list(InFlight("image", 2, "", "").parts(work, 2)) == [True, True]


@pytest.mark.parametrize("error", [ValueError("CUDA out of memory"), MemoryError(), RuntimeError("no kernel")])
def test_other_errors_pass(error: Exception) -> None:
    def work(part: slice) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        list(InFlight("image", 4, "", "").parts(work, 4))
    assert caught.value is error
