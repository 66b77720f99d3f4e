# Builds the RPMs; a part of packaging/build.sh, which sets the variables.

say "RPMs"
mkdir -p "$work/rpm/SOURCES" "$work/rpm/SPECS" "$work/rpm/wheels/bundled" "$work/rpm/wheels/pure"
cp "$wheel" "$pins"/bundled/*.whl "$work/rpm/wheels/bundled"
cp "$pins"/pure/*.whl "$work/rpm/wheels/pure"
cp "$sdist" "$work/rpm/SOURCES"
tar -C "$work/rpm" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - wheels |
    gzip -n >"$work/rpm/SOURCES/swanroam-$version-wheels.tar.gz"
{
    cat packaging/rpm/swanroam.spec
    # A header that has no date has the one of the clock.
    printf '* %s The swanroam developers <swanroam@example.org> - %s-1\n- See CHANGELOG.md.\n' \
        "$(date -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" "$version"
} >"$work/rpm/SPECS/swanroam.spec"
versions=$(cat packaging/pins/bundled.txt packaging/pins/pure.txt | sed -n 's/^\([a-z0-9-]*\)==\([0-9.]*\).*/\1 \2/p' | tr - _)
for dist in fc el9; do
    set -- --define "dist .$dist"
    [ $dist = fc ] || set -- "$@" --define "rhel 9"
    while read -r name number; do
        set -- "$@" --define "version_of_$name $number"
    done <<END
$versions
END
    quietly env PATH=/usr/sbin:/usr/bin:/sbin:/bin rpmbuild -bb --quiet --define "_topdir $work/rpm" \
        --define "swanroam_version $version" --define "_buildhost reproducible" --define "_source_filedigest_algorithm 8" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "source_date_epoch_from_changelog 0" --define "_binary_payload w6.gzdio" "$@" \
        "$work/rpm/SPECS/swanroam.spec"
    cp "$work/rpm/RPMS/noarch/swanroam-$version-1.$dist.noarch.rpm" "$out"
done
