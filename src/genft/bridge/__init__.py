"""The only code that knows peft: configuration, targets, layers, tuner, registration, fingerprints."""

from genft.bridge.register import register_all
from genft.methods import METHODS

register_all(METHODS.values())
