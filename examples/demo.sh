#!/bin/sh
# Shows a tunnel that survives three moves, on a bare Debian 12: sudo sh examples/demo.sh [--json]
#
# Installs what is missing (packaging/bootstrap.sh), then terminal, router, gateway and server in network namespaces, a
# tunnel with streams in both directions, and the terminal changes network three times; in a guest kernel where the
# running one has no ESP. Exit status 0 when the last line, or "ok" with --json, says that all went well.
set -eu
cd "$(dirname -- "$0")/.."
. packaging/bootstrap.sh

bootstrap lab
in_lab "$PWD/$python" examples/demo.py "$@"
