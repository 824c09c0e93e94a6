#!/usr/bin/env bash
# Builds wheel and sdist, installs each into an empty environment, and trains with it there.
# PYTHON can be overridden, and PIP_CONSTRAINT names versions to take: make release-check LOWEST=1
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/build"
"$work/build/bin/pip" install -q build
"$work/build/bin/python" -m build -q --outdir "$work/dist"

for file in "$work"/dist/*; do
    rm -rf "$work/env"
    "$PYTHON" -m venv "$work/env"
    "$work/env/bin/pip" install -q "genft[vision,demo] @ file://$file"
    (
        cd "$work"
        "$work/env/bin/python" -c "
import importlib.resources, genft
assert 'site-packages' in genft.__file__, genft.__file__
assert importlib.resources.files('genft').joinpath('py.typed').is_file()"
        "$work/env/bin/genft" --version
        "$work/env/bin/genft" train bbc-news --model minilm-l6 --limit-train 16 --limit-eval 8 --epochs 1 --out "$work/runs"
        echo '{"text": "the match ended in a draw"}' > input.jsonl
        "$work/env/bin/genft" predict "$work"/runs/adapters/* --input input.jsonl
    )
    rm -rf "$work/runs"
    echo "$(basename "$file"): installs and works"
done
