import os

import pytest
import torch

from saved_models import bert, decoder, encoder_decoder, images, reviews, timm_vit  # noqa: F401  (fixtures)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # the models are tiny, and xdist runs several tests at once


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
