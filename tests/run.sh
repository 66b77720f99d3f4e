#!/bin/sh
# All checks on a bare Debian 12: sudo sh tests/run.sh [PART] [arguments for pytest]
# PART: lint, types, unit, packages, lab, faults, libreswan, compat
#
# Installs what is missing (packaging/bootstrap.sh), then: lint, types, unit and property tests, the packages, built and
# lived with on Debian 12 and 13, and the lab, which is real strongSwan in network namespaces, in a guest kernel where the
# running one cannot. Without a part: all of these, each even if one before failed; the exit status is 0 when all passed.
# By name only: faults, the stories of things that break; libreswan, those of another gateway; compat, the lab with each
# Debian, kernel and Python (SWANROAM_SYSTEM, SWANROAM_KERNEL and SWANROAM_PYTHON narrow the lists to one). Logs of failed
# scenarios: build/lab-logs/
set -eu
cd "$(dirname -- "$0")/.."
. packaging/bootstrap.sh

# Asked for by name; more of the packages by `packages`.
later="--ignore=tests/lab/test_faults.py --ignore=tests/lab/test_kills.py --ignore=tests/lab/test_other_packages.py
    --ignore=tests/lab/test_libreswan.py
    --deselect=tests/lab/test_packages.py::test_a_purge_loses_no_packet_and_leaves_charon_its_tunnel
    --deselect=tests/lab/test_packages.py::test_the_single_file_takes_over_where_nothing_is_but_python_strongswan_and_nft"

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
    # What writes a report of all of it is one program.
    case " $* " in *" --junitxml="*) how=in_lab ;; *) how=in_labs ;; esac
    $how "$PWD/$python" -m pytest -p no:cacheprovider --durations=40 "$@"
}

# All of the lab but for the packages, whose stories have their own machines, for each combination; the table is of all that
# were ever run here: build/compat/
compat() {
    case " $* " in
    *" tests/"*) ;;
    *)
        set -- tests/lab --ignore=tests/lab/test_packages.py --ignore=tests/lab/test_other_packages.py \
            --ignore=tests/lab/test_libreswan.py "$@"
        ;;
    esac
    mkdir -p build/compat
    worse=0
    for debian in ${SWANROAM_SYSTEM:-bookworm trixie}; do
        for linux in ${SWANROAM_KERNEL:-6.1 6.12}; do
            for language in ${SWANROAM_PYTHON:-3.11 3.13}; do
                column=build/compat/$debian-$linux-$language
                say "$debian on Linux $linux with Python $language"
                rm -rf "$column" "$column.xml"
                SWANROAM_SYSTEM=$debian SWANROAM_KERNEL=$linux SWANROAM_PYTHON=$language \
                    lab --junitxml="$column.xml" "$@" || worse=1
                [ ! -d build/lab-logs ] || mv build/lab-logs "$column"
            done
        done
    done
    "$python" -m tests.lab.compat build/compat/*.xml
    return $worse
}

# What the stories of the packages need, in dist/, build/packages/ and .roots/; also those of the lab.
packages() {
    sh packaging/build.sh && sh tests/packages/variants.sh dist/*.deb build/packages/variants &&
        install_root bookworm dist/*.deb && install_root trixie dist/*.deb && install_root trixie dist/*.fc.*.rpm &&
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
    part "lab of the packages" lab tests/lab/test_packages.py tests/lab/test_other_packages.py
    ;;
lab)
    bootstrap lab
    part lab lab "$@"
    ;;
all)
    bootstrap lab
    if ! lab_works_here; then
        need_kernel &
        kernel_build=$!
    fi
    part lint lint
    part types types
    part "unit and property tests" unit "$@"
    roots
    part packages packages
    wait ${kernel_build:-} || die "no kernel for the guest"
    part lab lab "$@"
    ;;
faults)
    bootstrap lab
    part faults lab tests/lab/test_faults.py tests/lab/test_kills.py "$@"
    ;;
libreswan)
    bootstrap lab
    install_packages mmdebstrap
    made_root bookworm .roots/libreswan libreswan
    part libreswan lab tests/lab/test_libreswan.py "$@"
    ;;
compat)
    SWANROAM_LAB=guest
    bootstrap lab
    part compat compat "$@"
    ;;
*) die "no such part: $chosen (lint, types, unit, packages, lab, faults, libreswan, compat)" ;;
esac
[ -z "$failed" ] || die "failed:$failed"
