#!/usr/bin/env bash
# Builds wheel and sdist, installs each into an empty environment, and trains with it there.
# PYTHON can be overridden, and LOWEST=1 installs the lowest versions that pyproject.toml allows:
#     PYTHON=python3.12 benchmarks/release.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/build"
"$work/build/bin/pip" install -q build
"$work/build/bin/python" -m build -q --outdir "$work/dist"

lowest=()
if [ -n "${LOWEST:-}" ]; then
    lowest=(torch==2.6.0 torchvision==0.21.0 transformers==5.0.0 peft==0.21.0 accelerate==1.2.0 timm==1.0.15)
fi
for file in "$work"/dist/*; do
    rm -rf "$work/env"
    "$PYTHON" -m venv "$work/env"
    "$work/env/bin/pip" install -q "genft[vision,demo] @ file://$file" "${lowest[@]}"
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
