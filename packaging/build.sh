#!/bin/sh
# Builds everything that is released, from a checkout, with one command: sudo sh packaging/build.sh [FOLDER]
#
# Wheel and sdist, one self-contained file, the Debian package and the RPMs go to FOLDER (dist/), with their SHA-256 in
# SHA256SUMS, which is printed. The same commit gives the same files. Installs what is missing (bootstrap.sh), as root.
set -eu
cd "$(dirname -- "$0")/.."
. packaging/bootstrap.sh

bootstrap build
mkdir -p "${1:-dist}"
out=$(cd "${1:-dist}" && pwd)
work=$PWD/build/packages/work
tool=$PWD/build/tools/bin
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' plugin/swanroam/__init__.py)

# The date in everything: of the commit, or of this file where there is no history.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y packaging/build.sh)}
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC

log=$PWD/build/packages/build.log
mkdir -p build/packages
: >"$log"
quietly() {
    "$@" >>"$log" 2>&1 || {
        tail -n 30 "$log" >&2
        die "$1 failed, see above and $log"
    }
}

# Downloads pinned wheels, once: fetch FOLDER PINS [OPTIONS OF PIP]
fetch() {
    into=$1 list=$2
    shift 2
    mkdir -p "$into"
    quietly "$tool/pip" download --disable-pip-version-check --quiet --no-deps --only-binary=:all: --require-hashes \
        --dest "$into" --find-links "$into" -r "$list" "$@"
}

# What is copied in belongs to nobody in particular and to no umask.
umask 022
rm -rf "$work"
mkdir -p "$work"
rm -f "$out"/swanroam* "$out/SHA256SUMS"

say "wheel and sdist"
quietly "$tool/python" -m build --no-isolation --outdir "$out" .
wheel=$out/swanroam-$version-py3-none-any.whl sdist=$out/swanroam-$version.tar.gz
quietly "$tool/twine" check --strict "$wheel" "$sdist"

say "libraries"
pins=build/packages/wheels-$(cat packaging/pins/*.txt | cksum | cut -d ' ' -f 1)
if [ ! -e "$pins/complete" ]; then
    fetch "$pins/bundled" packaging/pins/bundled.txt
    fetch "$pins/pure" packaging/pins/pure.txt
    for python_version in 3.11 3.12 3.13; do
        fetch "$pins/compiled" packaging/pins/compiled.txt --python-version "$python_version" \
            --platform manylinux_2_34_x86_64 --platform manylinux2014_x86_64
    done
    touch "$pins/complete"
fi
pins=$PWD/$pins

say "single file"
quietly "$tool/python" packaging/zipapp/assemble.py "$out/swanroam-$version-x86_64.pyz" \
    "$wheel" "$pins"/bundled/*.whl "$pins"/pure/*.whl "$pins"/compiled/*.whl

say "Debian package"
mkdir -p "$work/deb"
tar -xzf "$sdist" -C "$work/deb"
tree=$work/deb/swanroam-$version
cp -R packaging/deb "$tree/debian"
mkdir "$tree/debian/wheels"
cp "$wheel" "$pins"/bundled/*.whl "$tree/debian/wheels"
cat >"$tree/debian/changelog" <<END
swanroam ($version-1) unstable; urgency=medium

  * See CHANGELOG.md.

 -- The swanroam developers <swanroam@example.org>  $(date -R -d "@$SOURCE_DATE_EPOCH")
END
(cd "$tree" && quietly env PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage -b -us -uc)
cp "$work/deb/swanroam_$version-1_all.deb" "$out"

[ ! -e packaging/rpm/swanroam.spec ] || . packaging/rpm/build.sh

(cd "$out" && sha256sum swanroam* >SHA256SUMS && cat SHA256SUMS)
