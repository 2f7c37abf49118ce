"""The FLOPs of a rehearsal's image, against those counted while it is painted."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.rehearsal.flops import painting
from generation.cost import shapes_of
from generation.crops import LabelReader
from generation.folders import weights_folders
from generation.models import load_networks
from generation.paint import Painter
from generation.plan import plan
from pipeline.work.cost import flop_counter
from tests.tiny import tiny_generation, write_maps, write_tiny_generator


def test_an_image_costs_what_is_counted_while_it_is_painted(tmp_path: Path) -> None:
    weights = write_tiny_generator(tmp_path / "weights")
    fusion = {"stride": 4, "large_component": 500}  # road and sky are kept, the train in a corner is not
    config = tiny_generation(weights, fusion=fusion, counts={"sunny": 1})
    scenes = write_maps(tmp_path / "maps")
    request, reader = plan(config, scenes)[0], LabelReader(scenes, None)
    painter = Painter(config, load_networks(str(weights), torch.device("cpu")))
    given = (reader.crop(request.source, request.box)[np.newaxis], [request.prompt], [request.seed])
    painter.images(*given)  # embeds the texts, which are kept
    with flop_counter() as counter:
        painter.images(*given)
    cost = painting(shapes_of(weights_folders(str(weights)), config), config, reader, request)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
