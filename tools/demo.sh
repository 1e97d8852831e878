#!/usr/bin/env bash
# The demonstration: a simulated tissue through the whole workflow, and how near the result is to the known truth.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin

mkdir -p demo
"$bin/stmcdi" simulate demo/tissue.h5ad --n-spots 600 --n-genes 300 --depth 1000 --seed 1
printf 'sample,h5ad\ntissue,tissue.h5ad\n' > demo/samplesheet.csv

# From inside demo/, so that Nextflow's own files stay there too.
(cd demo && "$bin/nextflow" run .. --input samplesheet.csv --evaluate --outdir results)

result=demo/results/tissue/tissue
"$bin/python" tools/compare_with_truth.py "${result}_imputed.h5ad" "${result}_truth.h5ad" "${result}_metrics.json"
echo "Result: ${result}_imputed.h5ad, imputed expression in layers['imputed'] (docs/output.md)"
echo "Report: ${result}_report.html, which genes to trust and why; open it in a browser"
