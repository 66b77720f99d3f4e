#!/bin/sh
# Builds the kernel of the lab's guest from Debian's sources, which takes some minutes: kernel.sh SOURCES.tar.xz TARGET
#
# It is a Linux for ARCH=um, a program of this machine: all of the kernel's own network code, and no processor to emulate.
# kernel.config beside this file lists what is in it; what the sources do not know of that is told, as far as it matters.
set -eu
sources=$1 target=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$(dirname -- "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "unpacking $sources"
tar -xf "$sources" -C "$work" --strip-components=1
cd "$work"
make -s ARCH=um KCONFIG_ALLCONFIG="$here/kernel.config" allnoconfig
for name in $(sed -n '/^# No options any more/q; s/^\(CONFIG_[A-Z0-9_]*\)=.*/\1/p' "$here/kernel.config"); do
    grep -q "^$name=" .config || echo "not in these sources: $name"
done
make ARCH=um -j"$(nproc)" linux
mv linux "$target"
