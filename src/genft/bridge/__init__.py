"""The only code that knows peft: configuration, targets, layers, tuner, registration, fingerprints."""
