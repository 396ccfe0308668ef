#!/bin/sh
# The whole chain on the embedded data set, for four ways of training the same network:
# train -> attack -> certify -> mip-verify -> bound-distance -> report.
set -eu

# Networks this small gain nothing from threads, and one thread gives the same bits on every run.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
out="${ROBUST_RUNS_DIR:-runs}"
recipes="digits-fc-plain digits-fc-at-linf digits-fc-kw-linf digits-fc-mmr-universal"

for recipe in $recipes; do
    echo "== $recipe" >&2
    robust train --recipe "$recipe"
    robust attack --recipe "$recipe" --norm union --points 200 --attack quick --quiet
    robust certify --recipe "$recipe" --norm union --points 200 --complete --quiet
    robust mip-verify --recipe "$recipe" --points 200 --time-limit 10 --quiet
    robust bound-distance --recipe "$recipe" --norm l2 --points 200 --quiet
done

robust report --dataset digits
robust report --dataset digits --format latex --standalone --out "$out/digits.tex"
echo "LaTeX written to $out/digits.tex" >&2
