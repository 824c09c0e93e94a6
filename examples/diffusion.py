"""Adapt the attention of a small diffusion model to a class of images that it has never seen, as DreamBooth does.

    python examples/diffusion.py --data DIR --features facebook/dinov2-small

DIR holds VTAB-1k's eurosat, as for `genft train eurosat --data DIR`. A denoiser of diffusers first learns nine of the
ten classes at 32 pixels (kept in OUT/base, where a second run starts), then the tenth, residential areas, from 118
images: GenFT, VectorFit and LoRA train its attention weights, "full" everything. The table has Fréchet distances of
features to test images, in two halves: one to choose rates on, one to report. OUT/samples.png shows samples.
Needs pip install "genft[cli,report,vision]" diffusers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.loaders.peft import PeftAdapterMixin
from matplotlib import pyplot as plt
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from genft import GenFTConfig, VectorFitConfig
from genft.data import load_task, read
from genft.data.images import read_image

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
#: Method → its configuration (none for full fine-tuning) and a learning rate.
METHODS: dict[str, tuple[Any, float]] = {
    "genft": (lambda: GenFTConfig(target_modules=ATTENTION), 3e-4),
    "vectorfit": (lambda: VectorFitConfig(target_modules=ATTENTION), 1e-3),
    "lora": (lambda: LoraConfig(r=8, target_modules=ATTENTION), 3e-4),
    "full": (None, 1e-5),
}
#: Pixels of the images, and of what the features are taken from; images in a batch.
SIDE, SEEN, BATCH = 32, 112, 32
SCHEDULER = DDIMScheduler(
    beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
)


class Denoiser(UNet2DModel, PeftAdapterMixin):
    """UNet2DModel alone has no ``add_adapter``; UNet2DConditionModel has it from this mixin."""


def new_denoiser(channels: Sequence[int]) -> Denoiser:
    """A denoiser with attention in all stages but the first; its input has four pixels in the channels of one."""
    attention = ["AttnDownBlock2D"] * (len(channels) - 1)
    return Denoiser(
        sample_size=SIDE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D", *attention),
        up_block_types=(*(name.replace("Down", "Up") for name in attention), "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=16,
    )


def load_images(data: Path, label: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [-1, 1]: of all other classes; of the class, its training images and two halves of its test images."""
    splits = read(load_task("eurosat", data)).splits
    rows = [(name, path, int(y)) for name, s in splits.items() for (path,), y in zip(s.inputs, s.labels, strict=True)]

    def decode(paths: Sequence[str]) -> Tensor:
        small = [np.asarray(read_image(Path(path)).resize((SIDE, SIDE))) for path in paths]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1

    test = decode([path for name, path, y in rows if y == label and name == "test"])
    train = decode([path for name, path, y in rows if y == label and name != "test"])
    return decode([path for _, path, y in rows if y != label]), train, test[::2], test[1::2]


def train(model: Any, images: Tensor, steps: int, rate: float) -> None:
    """Learn to remove noise from the images, which are turned and mirrored."""
    torch.manual_seed(0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        batch = images[torch.randint(len(images), (BATCH,))].rot90(step % 4, (2, 3))
        clean = F.pixel_unshuffle(batch.flip(3) if step % 8 > 3 else batch, 2)
        noise, times = torch.randn_like(clean), torch.randint(1000, (BATCH,))
        predicted = model(SCHEDULER.add_noise(clean, noise, times), times).sample
        loss = F.mse_loss(predicted, SCHEDULER.get_velocity(clean, noise, times))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def draw(model: Any, count: int, steps: int = 20) -> Tensor:
    """Images from the same noise in every call."""
    SCHEDULER.set_timesteps(steps)
    sample = torch.randn(count, 12, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0))
    model.eval()
    for t in SCHEDULER.timesteps:
        sample = SCHEDULER.step(model(sample, t).sample, t, sample).prev_sample
    return F.pixel_shuffle(sample, 2).clamp(-1, 1)


@torch.no_grad()
def features(net: Any, images: Tensor) -> Tensor:
    """The class token of an image model, normalised as ImageNet."""
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    large = F.interpolate((images + 1) / 2, size=(SEEN, SEEN), mode="bicubic").clamp(0, 1)
    return torch.cat([net(pixel_values=(x - mean) / std).last_hidden_state[:, 0] for x in large.split(BATCH)])


def frechet(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of two normal distributions with the means and covariances of the rows."""
    left, right = ((x - x.mean(0)).double() / (len(x) - 1) ** 0.5 for x in (a, b))
    cross = torch.linalg.matrix_norm(left @ right.T, "nuc")  # the trace of (Σa Σb)^½
    return float((a.mean(0) - b.mean(0)).square().sum() + left.square().sum() + right.square().sum() - 2 * cross)


def adapt(base: Path, method: str, rate: float, door: str, images: Tensor, steps: int) -> tuple[Any, int]:
    """The base adapted to the images, and how many numbers were trained."""
    torch.manual_seed(0)  # for LoRA's start
    model: Any = Denoiser.from_pretrained(base)
    config = METHODS[method][0]
    if config and door == "peft":
        model = get_peft_model(model, config())
    elif config:
        model.requires_grad_(False)  # as diffusers' own training scripts do, before add_adapter
        model.add_adapter(config())
    train(model, images, steps, rate)
    return model, sum(p.numel() for p in model.parameters() if p.requires_grad)


def save_sheet(rows: dict[str, Tensor], path: Path, columns: int = 14) -> None:
    """One row of images per name."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(columns * 0.5 + 1, len(rows) * 0.53))
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(((torch.cat(list(images[:columns]), dim=2) + 1) / 2).permute(1, 2, 0))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main(
    data: Path,
    net: Any,
    out: Path = Path("diffusion"),
    methods: str = ",".join(METHODS),
    label: int = 7,
    door: str = "peft",
    channels: Sequence[int] = (48, 96, 128),
    base_steps: int = 2000,
    steps: int = 100,
    count: int = 256,
) -> dict[str, tuple[float, float]]:
    """Train the base and adapt it; return the distances of every row to both halves of the test images."""
    others, few, choosing, reporting = load_images(data, label)
    if not (out / "base").exists():
        base = new_denoiser(channels)
        train(base, others, base_steps, 1e-3)
        base.save_pretrained(out / "base")
    halves = [features(net, half) for half in (choosing, reporting)]
    rows, distances = {}, {}

    def measure(name: str, images: Tensor, trained: int = 0, seconds: float = 0) -> None:
        rows[name], seen = images, features(net, images)
        distances[name] = (frechet(seen, halves[0]), frechet(seen, halves[1]))
        print(f"{name:16}{trained:10,}{seconds:9.0f}{distances[name][0]:10.1f}{distances[name][1]:10.1f}", flush=True)

    print("method             trained  seconds  choosing reporting")
    measure("train", few)
    measure("base", draw(Denoiser.from_pretrained(out / "base"), count))
    for entry in methods.split(","):
        name, _, rate = entry.partition("=")
        start = time.perf_counter()
        model, trained = adapt(out / "base", name, float(rate or METHODS[name][1]), door, few, steps)
        seconds = time.perf_counter() - start
        measure(entry, draw(model, count), trained, seconds)
    save_sheet(rows, out / "samples.png")
    return distances


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", default="facebook/dinov2-small", help="a ViT of transformers: folder or Hub id")
    parser.add_argument("--out", type=Path, default=Path("diffusion"))
    parser.add_argument("--door", choices=("peft", "diffusers"), default="peft", help="get_peft_model or add_adapter")
    parser.add_argument("--methods", default=",".join(METHODS), help="NAME or NAME=RATE, separated by commas")
    given = vars(parser.parse_args())
    main(net=AutoModel.from_pretrained(given.pop("features")).eval(), **given)
