"""Hand an adapter over to programs that do not know genft: merged into its base, or as a standard LoRA adapter."""

from genft.export.lora import LoraAdapter, to_lora
from genft.export.merge import merge

__all__ = ["LoraAdapter", "merge", "to_lora"]
