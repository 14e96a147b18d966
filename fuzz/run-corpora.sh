#!/bin/bash
# Runs every fuzz target once over its corpus: what was found stays found. `make fuzz` searches for more.
set -euo pipefail
cd "$(dirname "$0")"
for target in targets/*.rs; do
  name=$(basename "$target" .rs)
  log=$("${1:-../target/debug}/$name" -runs=0 "corpus/$name" 2>&1) || { echo "$log"; echo "fuzz target $name failed"; exit 1; }
  echo "corpus $name: $(ls "corpus/$name" | wc -l) inputs"
done
