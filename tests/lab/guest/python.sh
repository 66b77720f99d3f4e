#!/bin/sh
# Builds a Python that a Debian does not have, to lie in it below /opt: python.sh BUILD VERSION SYSTEM
#
# A hook of mmdebstrap: BUILD is a root of the same Debian as SYSTEM, with a compiler, and goes away afterwards; apt there
# knows a source package pythonVERSION. Debian's changes to it are left out: they move what is installed to Debian's places.
set -eu
build=$1 version=$2 system=$3

cd "$build/usr/src"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get source -q --download-only --tar-only "python$version"
chroot "$build" sh -eu -c '
    cd /usr/src
    mkdir python
    tar -xf "python$1"_*.orig.tar.?z -C python --strip-components=1
    cd python
    ./configure -q --prefix="/opt/python-$1" --disable-test-modules --without-ensurepip
    make -s -j"$(nproc)"
    make -s install
    "/opt/python-$1/bin/python$1" -c "import bz2, ctypes, lzma, socket, sqlite3, ssl, zlib; socket.AF_NETLINK"
' sh "$version"
mkdir -p "$system/opt"
rm -rf "$system/opt/python-$version"
cp -a "$build/opt/python-$version" "$system/opt"
