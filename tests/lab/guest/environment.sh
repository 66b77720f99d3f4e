#!/bin/sh
# Makes a virtual environment in another Debian: environment.sh ROOT ENVIRONMENT PYTHON CHECKOUT, under `unshare --mount`
#
# ENVIRONMENT and PYTHON are paths in it. In the guest the former lies over the checkout's .venv, so it is made there, too.
set -eu
root=$1 environment=$2 python=$3 checkout=$4

mkdir -p "$root$environment" "$root$checkout"
mount --bind "$checkout" "$root$checkout"
mount --bind "$root$environment" "$root$checkout/.venv"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# What pip needs of this machine to reach its index.
mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
touch "$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
chroot "$root" sh -eu -c '
    cd "$1"
    PATH=/usr/sbin:/usr/bin:/sbin:/bin
    "$2" -m venv --clear .venv
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[dev]"
' sh "$checkout" "$python"
