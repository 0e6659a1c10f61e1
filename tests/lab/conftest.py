"""Data that several tests of training runs share."""

import pytest
from coco_files import write_squares


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Data that a small detector learns to find something in within an epoch, so that its figures are no zeros."""
    root = write_squares(tmp_path_factory.mktemp("squares"), train=128, val=8)
    options = ["--data.name=coco", f"--data.root={root}", "--data.classes=3", "--data.limit=128"]
    return [*options, "--training.batch=2", "--training.schedule=constant"]
