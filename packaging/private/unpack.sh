#!/bin/sh
# Unpacks wheels of pure Python into a private folder: unpack.sh FOLDER WHEEL...
#
# Left out is what only pip needs, and what no program imports: type stubs, tests, records,
# and lines that name an interpreter.
set -eu
folder=$1
shift
mkdir -p "$folder"
for wheel; do
    case $wheel in *-none-any.whl) ;; *) echo "$wheel is not pure Python" >&2 && exit 1 ;; esac
    python3 -m zipfile -e "$wheel" "$folder"
done
rm -f "$folder"/*.dist-info/RECORD "$folder"/*.dist-info/WHEEL "$folder"/*.dist-info/top_level.txt
find "$folder" -name '*.pyi' -delete
find "$folder" -type d \( -name tests -o -name __pycache__ -o -name '*.data' \) -prune -exec rm -rf {} +
# Modules are imported, not started.
find "$folder" -name '*.py' -exec sed -i '1{/^#!/d}' {} +
find "$folder" -type f -exec chmod 644 {} +
find "$folder" -type d -exec chmod 755 {} +
