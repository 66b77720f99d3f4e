#!/bin/sh
# Makes other versions of the Debian package, for upgrades and downgrades: variants.sh PACKAGE.deb FOLDER
#
# newer.deb has a higher version and keeps the format of its state, newest.deb an even higher one and another format.
set -eu
package=$1 folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"

repack() {
    dpkg-deb --raw-extract "$package" "$work/$1"
    sed -i "s/^Version: .*/Version: $2-1/" "$work/$1/DEBIAN/control"
    sed -i "s/^__version__ = .*/__version__ = \"$2\"/" "$work/$1/usr/lib/swanroam/swanroam/__init__.py"
    [ "$1" = newer ] || {
        sed -i 's/^SCHEMA_VERSION: Final = .*/SCHEMA_VERSION: Final = 999/' "$work/$1/usr/lib/swanroam/swanroam/app/database.py"
        grep -q 'SCHEMA_VERSION: Final = 999' "$work/$1/usr/lib/swanroam/swanroam/app/database.py"
    }
    dpkg-deb --root-owner-group -Zgzip -z1 --build "$work/$1" "$folder/$1.deb" >/dev/null
}

repack newer 8.0.0
repack newest 9.0.0
