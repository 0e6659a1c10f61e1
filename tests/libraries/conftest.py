"""Networks and tools of other libraries; importing these takes longer than all quick tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
