"""``--device``: where a command computes."""

from __future__ import annotations

import os
import re

import torch

from genft.cli.declare import Options, option
from genft.errors import ConfigError


class DeviceOptions(Options):
    panel = "Runs"
    device: str | None = option(
        "cpu, cuda, or cuda:N for one of several GPUs.", None, shown_default="the GPU if there is one"
    )

    def use(self) -> None:
        """Hide every other device from this process and those that it starts; call it before anything is computed.

        Raises:
            ConfigError: there is no such device.
        """
        if self.device is None:
            return
        wanted = re.fullmatch(r"cpu|cuda(?::(\d+))?", self.device)
        if wanted is None:
            raise ConfigError(f"--device: received {self.device!r}; allowed: cpu, cuda, cuda:N")
        if self.device == "cpu":
            os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
        elif wanted[1] is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else None
            number = int(wanted[1])
            if names is not None and number >= len(names):
                raise ConfigError(f"--device: {self.device} is none of the GPUs in CUDA_VISIBLE_DEVICES={visible}")
            os.environ["CUDA_VISIBLE_DEVICES"] = names[number] if names else str(number)
        if self.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"--device: {self.device} is not available to PyTorch here; allowed: cpu")
