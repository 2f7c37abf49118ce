"""flexseg predict: which pictures are meant, what is refused before a model is loaded, and a whole call."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.commands.predict import find_inputs, predict
from pipeline.config.experiment import load_config
from pipeline.errors import UserError
from training.networks import Segmenter
from training.predict import predictor


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two photographs in folders, one in capitals, beside a text and a hidden file."""
    folder = tmp_path / "in [1]"
    for number, name in enumerate(("day/a.png", "night/B.JPG", "night/notes.txt", ".hidden.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, "PNG" if name.endswith("g") else "JPEG")
    return folder


def test_pictures_are_named_by_their_path_below_the_folder(photographs: Path, tmp_path: Path) -> None:
    found = find_inputs([photographs], tmp_path / "out")
    assert found.pictures == {"day/a": photographs / "day/a.png", "night/B": photographs / "night/B.JPG"}
    assert find_inputs([photographs / "day" / "a.png"], tmp_path / "out").total == 1


def test_what_cannot_be_meant_is_one_line(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        find_inputs([tmp_path / "none"], tmp_path / "out")
    with pytest.raises(UserError, match="would both be written as a"):
        find_inputs([photographs / "day", photographs / "day" / "a.png"], tmp_path / "out")
    with pytest.raises(UserError, match="lies in the folder"):
        find_inputs([photographs], photographs / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file that ends in"):
        find_inputs([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UserError, match="--ids coco: wanted one of"):
        predict("model", [photographs], output=tmp_path / "out", ids="coco")
    with pytest.raises(UserError, match="add --config"):
        predict("model", [photographs], output=tmp_path / "out", overrides=["evaluation.scale=2"])


def test_labels_are_those_of_the_network_at_the_stated_size(photographs: Path, tmp_path: Path) -> None:
    Segmenter.create(load_config("toy").training.network, 0).eval().save_pretrained(tmp_path / "model")
    predict(str(tmp_path / "model"), [photographs], output=tmp_path / "out", size=(80, 128), batch=2)
    single = predictor(tmp_path / "model", 2.0, "cpu")
    for name, file in find_inputs([photographs], tmp_path / "out").pictures.items():
        found = np.asarray(Image.open(tmp_path / "out" / "labels" / f"{name}.png"))
        assert (found == single(np.asarray(Image.open(file)))).mean() > 0.999
    assert (tmp_path / "out" / "contact_sheet.jpg").is_file()
