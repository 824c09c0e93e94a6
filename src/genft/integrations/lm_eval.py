"""lm-evaluation-harness with adapters of genft: its own command line, which then knows our methods.

.. code-block:: console

    $ python -m genft.integrations.lm_eval --model hf --model_args pretrained=BASE,peft=FOLDER --tasks hellaswag

The harness has no plugins: it loads ``peft=`` with peft, which knows a method once genft is imported. In Python,
``import genft`` before ``lm_eval.simple_evaluate`` is enough.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
