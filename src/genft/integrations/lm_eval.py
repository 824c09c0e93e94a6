"""lm-evaluation-harness with genft adapters: runs its own command line after our methods have been registered.

.. code-block:: console

    $ python -m genft.integrations.lm_eval --model hf --model_args pretrained=BASE,peft=FOLDER --tasks hellaswag

The harness has no plugin system: it loads ``peft=`` with peft, which knows our methods once genft is imported. In
Python, it is enough to ``import genft`` before calling ``lm_eval.simple_evaluate``.
"""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
