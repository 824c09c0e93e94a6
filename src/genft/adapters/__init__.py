"""Saved adapters, and their export to programs without genft: merged into the base, or as a standard LoRA adapter."""

from genft.adapters.lora import LoraAdapter, to_lora
from genft.adapters.merge import merge

__all__ = ["LoraAdapter", "merge", "to_lora"]
