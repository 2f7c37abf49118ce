"""A preset is scored at the scale of the published rows that the report shows beside it."""

import pytest

from evaluation.inference import input_size
from evaluation.published import HIGH_RESOLUTION, ROWS, SINGLE_RESOLUTION
from pipeline.config.experiment import load_config

# (height, width) px of the validation images, as the data sets' publishers state them.
NATIVE = {
    "acdc": (1080, 1920),
    "dark-zurich": (1080, 1920),
    "cityscapes": (1024, 2048),
    "bdd100k": (720, 1280),
    "mapillary": (2448, 3264),
}


@pytest.mark.parametrize(
    ("preset", "text", "box", "box_of_acdc", "window", "stride"),
    [
        ("gta-dginstyle", SINGLE_RESOLUTION, (512, 1024), (540, 960), 512, 256),
        ("gta-ablation", SINGLE_RESOLUTION, (512, 1024), (540, 960), 512, 256),
        ("gta-hrda", HIGH_RESOLUTION, (1024, 2048), (1080, 1920), 1024, 512),
    ],
)
def test_presets_score_at_the_published_scale(
    preset: str, text: str, box: tuple[int, int], box_of_acdc: tuple[int, int], window: int, stride: int
) -> None:
    """The released test pipelines: ratio kept, within 1024x512 px (960x540 for ACDC and Dark Zurich), windows of 512 px
    every 256 px; twice all of that for HRDA (DAFormer's and HRDA's released configs)."""
    config = load_config(preset).evaluation
    assert (config.window, config.stride) == ((window, window), (stride, stride))
    assert config.scales == (1.0,)
    assert config.input_filter == "released"
    assert not config.flip
    assert f"{box[1]}×{box[0]} px" in text
    assert f"{box_of_acdc[1]}×{box_of_acdc[0]} px on ACDC and Dark Zurich" in text
    for name, (height, width) in NATIVE.items():
        most = box_of_acdc if name in ("acdc", "dark-zurich") else box
        factor = min(most[0] / height, most[1] / width)
        assert input_size(config, name, (height, width)) == (round(height * factor), round(width * factor)), name


@pytest.mark.parametrize(("preset", "network"), [("gta-dginstyle", "DAFormer"), ("gta-hrda", "HRDA")])
@pytest.mark.parametrize(("method", "name"), [("dginstyle", "DGInStyle"), ("flex-seg", "FLEX-Seg")])
def test_presets_train_what_the_published_row_was_trained_with(
    preset: str, network: str, method: str, name: str
) -> None:
    config = load_config(preset).training
    row = next(row for row in ROWS if row.name == f"{network} + {name}")
    says = row.trained_with if not row.trained_with.startswith("neither") else ""
    trained = config.methods[method]
    assert trained.generated
    assert trained.feature_distance == ("feature distance" in says)
    assert trained.shade == ("SHADE" in says)
    assert (trained.gap, trained.ube, trained.has) == (name == "FLEX-Seg",) * 3
    assert (config.network.hrda is not None) == (network == "HRDA")
    # DAFormer rows are drawn from chosen pairs, HRDA rows by rare classes on the fly.
    assert config.rare_classes and (config.source_pool is None) == (network == "HRDA")
