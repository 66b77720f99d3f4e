#!/bin/sh
# All checks on a bare Debian 12: sudo sh tests/run.sh [lint|types|unit|lab] [arguments for pytest]
#
# Installs what is missing (packaging/bootstrap.sh), then: lint, types, unit and property tests, and the lab, which is
# real strongSwan in network namespaces, in a guest kernel where the running one cannot. Without a part: all of them,
# each even if one before failed; the exit status is 0 when all passed. Logs of failed scenarios: build/lab-logs/
set -eu
cd "$(dirname -- "$0")/.."
. packaging/bootstrap.sh

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
    case " $* " in *" tests/"*) ;; *) set -- tests/lab "$@" ;; esac
    in_lab "$PWD/$python" -m pytest -p no:cacheprovider "$@"
}

chosen=${1:-all}
[ $# -eq 0 ] || shift
case $chosen in
lint | types | unit)
    bootstrap plain
    part "$chosen" "$chosen" "$@"
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
    part lab lab "$@"
    ;;
*) die "no such part: $chosen (lint, types, unit, lab)" ;;
esac
[ -z "$failed" ] || die "failed:$failed"
