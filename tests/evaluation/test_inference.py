"""From logits to labels: sizes, sliding windows, mirrored and rescaled inputs, confidence, a transformers model."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from evaluation import transformers_models
from evaluation.inference import Network, PredictedLabels, input_size, input_text, make_predict
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.errors import UserError
from tests.made_networks import bright, local, photos

CPU = torch.device("cpu")


def run(
    network: Network, images: np.ndarray, config: EvaluationConfig, size: tuple[int, int], batch: int = 3
) -> PredictedLabels:
    return make_predict(network, config, CPU, batch)(images, size)


def test_labels_and_confidence_are_those_of_the_softmax() -> None:
    images = photos(2, 24, 40)
    labels, confidence = run(local, images, EvaluationConfig(), (48, 80))
    pixels = interpolate(torch.tensor(images).movedim(3, 1).float(), (48, 80), mode="bilinear")
    expected = interpolate(local(pixels), (24, 40), mode="bilinear").softmax(dim=1).max(dim=1)
    assert torch.as_tensor(labels).dtype == torch.uint8
    torch.testing.assert_close(torch.as_tensor(labels).long(), expected.indices)
    torch.testing.assert_close(torch.as_tensor(confidence), expected.values)


def test_confidence_survives_logits_that_overflow_an_exponential() -> None:
    images = photos(1, 8, 8)
    labels, confidence = run(lambda image: 1e4 * bright(image), images, EvaluationConfig(), (8, 8))
    assert torch.as_tensor(confidence).isfinite().all() and (torch.as_tensor(confidence) > 0.5).all()
    assert torch.equal(torch.as_tensor(labels), torch.as_tensor(run(bright, images, EvaluationConfig(), (8, 8)).labels))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_size_does_not_change_labels(batch: int) -> None:
    images, config = photos(3, 24, 40), EvaluationConfig(window=(16, 16), stride=(12, 12))
    sizes = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(windows))
        return local(windows)

    one, many = run(network, images, config, (24, 40), batch), run(local, images, config, (24, 40), 99)
    assert torch.equal(torch.as_tensor(one.labels), torch.as_tensor(many.labels)) and max(sizes) <= batch


def test_flip_and_scales_average_probabilities() -> None:
    images = photos(1, 16, 24)
    pixels = torch.tensor(images).movedim(3, 1).float()

    def sided(image: torch.Tensor) -> torch.Tensor:
        """Sees where a pixel lies, so that a mirrored image is another matter."""
        return bright(image) + torch.linspace(0, 3, image.shape[3]) * torch.arange(NUM_CLASSES).view(1, -1, 1, 1) / 9

    double = interpolate(pixels, (32, 48), mode="bilinear")
    passes = [sided(pixels), sided(pixels.flip(3)).flip(3), sided(double), sided(double.flip(3)).flip(3)]
    shares = [interpolate(logits, (16, 24), mode="bilinear").softmax(dim=1) for logits in passes[:2]]
    shares += [interpolate(logits, (16, 24), mode="bilinear", antialias=True).softmax(dim=1) for logits in passes[2:]]
    expected = torch.stack(shares).mean(dim=0).max(dim=1)
    labels, confidence = run(sided, images, EvaluationConfig(flip=True, scales=(1.0, 2.0)), (16, 24))
    torch.testing.assert_close(torch.as_tensor(confidence), expected.values)
    assert (torch.as_tensor(labels).long() == expected.indices).float().mean() > 0.99


def test_the_input_shrinks_by_the_filter_that_is_stated() -> None:
    images, seen = photos(1, 30, 48), []

    def network(image: torch.Tensor) -> torch.Tensor:
        seen.append(image[0].movedim(0, 2).numpy())
        return local(image)

    for how in ("antialiased", "released"):
        run(network, images, EvaluationConfig.model_validate({"input_filter": how}), (10, 16))
    np.testing.assert_allclose(seen[1], images[0, 1::3, 1::3])  # the px at the center of each 3 x 3
    assert np.abs(seen[0] - seen[1]).max() > 20
    np.testing.assert_allclose(seen[0].mean(), images.mean(), atol=3)


@pytest.mark.parametrize(
    ("image", "seen"),
    [((1024, 2048), (512, 1024)), ((3000, 4000), (512, 683)), ((4000, 3000), (683, 512)), ((720, 1280), (512, 910))],
)
def test_published_sizes_keep_the_aspect_ratio(image: tuple[int, int], seen: tuple[int, int]) -> None:
    config = EvaluationConfig(size={"cityscapes": (512, 1024)}, scale=0.5)
    assert input_size(config, "cityscapes", image) == seen
    assert input_size(config, "acdc", (1080, 1920)) == (540, 960)


def test_what_the_network_saw_is_said() -> None:
    plain = EvaluationConfig(scale=2)
    assert input_text(plain, "fog", {(96, 192)}) == "2 × 192×96 px"
    assert input_text(plain, "fog", set()) == "no image"
    full = EvaluationConfig(size={"fog": (512, 1024)}, window=(512, 512), flip=True, scales=(0.5, 1))
    assert input_text(full, "fog", {(1024, 2048)}) == (
        "1024×512 px of 2048×1024 px, windows of 512×512 px, at 0.5, 1 times that, flipped"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride": (4, 4)}, "set 'window' too"),
        ({"window": (8, 8), "stride": (8, 9)}, "leaves gaps"),
        ({"scales": ()}, "'scales' is empty"),
    ],
)
def test_windows_that_make_no_sense(values: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig.model_validate(values)


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SegFormer in transformers' layout, with an image processor of its own numbers."""
    folder = tmp_path_factory.mktemp("segformer")
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(CLASS_NAMES)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]).save_pretrained(folder)
    return folder


def test_a_transformers_model_sees_what_its_own_processor_gives(hub_model: Path) -> None:
    assert transformers_models.is_transformers(hub_model) and transformers_models.locate(str(hub_model)) == hub_model
    images = photos(1, 64, 96)
    with torch.inference_mode():
        logits = transformers_models.transformers_network(hub_model, CPU)(torch.tensor(images).movedim(3, 1).float())
        model = SegformerForSemanticSegmentation.from_pretrained(hub_model).eval()
        processor = SegformerImageProcessor.from_pretrained(hub_model, do_resize=False)
        expected = model(**processor(images[0], return_tensors="pt")).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {str(k): f"LABEL_{k}" for k in range(21)}}, "knows 21 classes"),
        (
            {"id2label": {str(k): name for k, name in enumerate(reversed(CLASS_NAMES))}},
            "not Cityscapes' 19 in their order",
        ),
        ({"model_type": "bert"}, "no transformers model for semantic segmentation"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    hub_model: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    for file in hub_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = change if "model_type" in change else json.loads((hub_model / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(content))
    if "21" in message:  # the weights must fit, or loading them fails first
        names = {k: str(k) for k in range(21)}
        config = SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, id2label=names)
        SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        transformers_models.transformers_network(tmp_path, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("nobody/segformer-that-is-nowhere", "hf download nobody/"), ("not a name/at all", "correct the path")],
)
def test_a_model_that_is_not_to_be_had_says_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(UserError, match=advice) as caught:
        transformers_models.locate(name)
    assert "\n" not in str(caught.value)


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def changed(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    "own_code",
    [
        {"config.json": {"model_type": "zz"}},
        {"config.json": {"model_type": "zz"}, "preprocessor_config.json": {}},
        {"preprocessor_config.json": {"image_processor_type": "Mine"}},
    ],
    ids=["the network's", "both", "the processor's"],
)
def test_code_of_a_models_folder_is_not_run_whatever_the_terminal_says(
    hub_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    own_code: dict[str, dict[str, object]],
) -> None:
    """Case F03: transformers asks on the terminal whether to run it, and `yes |` said yes."""
    folder, marker = copied(hub_model, tmp_path / "model"), tmp_path / "marker"
    names = ("AutoConfig", "AutoModelForSemanticSegmentation", "AutoImageProcessor")
    for file, entries in own_code.items():
        changed(folder / file, auto_map=dict.fromkeys(names, "evil.Evil"), **entries)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="Python code of its own") as caught:
        transformers_models.transformers_network(folder, CPU)
    assert "\n" not in str(caught.value) and all(file in str(caught.value) for file in own_code)
    assert not marker.exists() and "[y/N]" not in "".join(capfd.readouterr())


def test_code_that_is_not_needed_is_left_alone(hub_model: Path, tmp_path: Path) -> None:
    folder, marker = copied(hub_model, tmp_path / "model"), tmp_path / "marker"
    changed(folder / "config.json", auto_map={"AutoModelForSemanticSegmentation": "evil.Evil"})
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    transformers_models.transformers_network(folder, CPU)
    assert not marker.exists()


def test_weights_that_are_not_there_or_are_pickled_are_refused(hub_model: Path, tmp_path: Path) -> None:
    lacking = copied(hub_model, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    left_out = weights.pop("decode_head.classifier.weight")
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of the model's weights .* decode_head\.classifier\.weight"):
        transformers_models.transformers_network(lacking, CPU)
    pickled = copied(hub_model, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(weights | {"decode_head.classifier.weight": left_out}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="and safetensors"):
        transformers_models.transformers_network(pickled, CPU)
    truncated = copied(hub_model, tmp_path / "truncated")
    (truncated / "model.safetensors").write_bytes((hub_model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="no transformers model"):
        transformers_models.transformers_network(truncated, CPU)
