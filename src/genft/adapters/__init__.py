"""Hand an adapter over to programs that do not know genft: merged into its base, or as a standard LoRA adapter."""

from genft.adapters.lora import LoraAdapter, to_lora
from genft.adapters.merge import merge

__all__ = ["LoraAdapter", "merge", "to_lora"]
