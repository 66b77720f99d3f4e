#!/bin/sh
# All checks on a bare Debian 12: sudo sh tests/run.sh [lint|types|unit|packages|lab|faults] [arguments for pytest]
#
# Installs what is missing (packaging/bootstrap.sh), then: lint, types, unit and property tests, the packages, built and
# lived with on Debian 12 and 13, and the lab, which is real strongSwan in network namespaces, in a guest kernel where the
# running one cannot. Without a part: all of these, each even if one before failed; the exit status is 0 when all passed.
# By name only: faults, the stories of things that break, which nobody has seen pass yet. Logs of failed scenarios:
# build/lab-logs/
set -eu
cd "$(dirname -- "$0")/.."
. packaging/bootstrap.sh

# Asked for by name; those of the packages by `packages`.
later="--ignore=tests/lab/test_faults.py --ignore=tests/lab/test_packages.py"

failed=
part() {
    title=$1
    shift
    say "$title"
    began=$(date +%s)
    "$@" || failed="$failed $(echo "$title" | tr ' ' '-')"
    say "$title: $(($(date +%s) - began)) s"
}

lint() {
    "$python" -m ruff check . && "$python" -m ruff format --check .
}
types() { "$python" -m mypy; }
unit() { "$python" -m pytest tests/unit tests/property "$@"; }
lab() {
    rm -rf build/lab-logs
    # Paths and expressions are for the lab; without a path it is all of it.
    case " $* " in *" tests/"*) ;; *) set -- tests/lab $later "$@" ;; esac
    in_lab "$PWD/$python" -m pytest -p no:cacheprovider "$@"
}

# What the stories of the packages need, in dist/, build/packages/ and .roots/; also those of tests/lab/test_packages.py.
packages() {
    sh packaging/build.sh && sh tests/packages/variants.sh dist/*.deb build/packages/variants &&
        install_root bookworm dist/*.deb &&
        "$python" -m pytest tests/packages "$@"
}
roots() {
    bootstrap build
    need_root bookworm
    need_root trixie
}

chosen=${1:-all}
[ $# -eq 0 ] || shift
case $chosen in
lint | types | unit)
    bootstrap plain
    part "$chosen" "$chosen" "$@"
    ;;
packages)
    bootstrap lab
    roots
    part packages packages "$@"
    part "lab of the packages" lab tests/lab/test_packages.py
    ;;
lab)
    bootstrap lab
    part lab lab "$@"
    ;;
all)
    bootstrap lab
    part lint lint
    part types types
    part "unit and property tests" unit "$@"
    roots
    part packages packages
    part lab lab "$@"
    ;;
faults)
    bootstrap lab
    part faults lab tests/lab/test_faults.py "$@"
    ;;
*) die "no such part: $chosen (lint, types, unit, packages, lab, faults)" ;;
esac
[ -z "$failed" ] || die "failed:$failed"
