#!/bin/sh
# Makes a virtual environment for the Python of another Debian: environment.sh ROOT CHECKOUT, under `unshare --mount`
#
# In the guest ROOT/venv lies over the checkout's .venv, so it is made there, too.
set -eu
root=$1 checkout=$2

mkdir -p "$root/venv" "$root$checkout"
mount --bind "$checkout" "$root$checkout"
mount --bind "$root/venv" "$root$checkout/.venv"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
# What pip needs of this machine to reach its index.
mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
touch "$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
chroot "$root" sh -eu -c '
    cd "$1"
    PATH=/usr/sbin:/usr/bin:/sbin:/bin
    python3 -m venv --clear .venv
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -e ".[dev]"
' sh "$checkout"
