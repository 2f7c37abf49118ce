"""`python -m generation.weights PRESET FOLDER`: train without the command line's store."""

import sys
from pathlib import Path

from generation.weights.train import train_weights
from pipeline.config.experiment import load_config
from pipeline.progress import bar

if __name__ == "__main__":
    weights = load_config(sys.argv[1]).weights
    assert weights is not None
    train_weights(weights, Path(sys.argv[2]), progress=bar)
