# Set-up of a bare Debian 12 for tests/run.sh and examples/demo.sh, which source this file from the top of the checkout:
#
#     bootstrap lab|plain     Debian packages (for lab) and a virtual environment in .venv/, skipped fast when there
#     bootstrap build         what packaging/build.sh needs, with a virtual environment in build/tools/
#     in_lab COMMAND...       run a command where the lab works: here if this kernel can, otherwise in a guest kernel
#
# Progress goes to standard error. Whole output of what is installed: build/install.log, and build/kernel.log

python=.venv/bin/python
log=build/install.log
packages="charon-systemd strongswan-swanctl libstrongswan-extra-plugins libcharon-extra-plugins
    libcharon-extauth-plugins nftables iproute2 iputils-ping tcpdump kmod procps python3-venv"
# The guest's kernel is built from Debian's sources, of the version that linux-source names. With SWANROAM_GUEST=emulated it
# is Debian's own one, on emulated processors.
guest_packages="linux-source gcc libc6-dev make bison flex bc xz-utils util-linux"
emulated_packages="qemu-system-x86 busybox-static linux-image-amd64"
# For a guest with the file system of another Debian than this machine's.
system_packages="$packages apparmor ca-certificates mount netbase"
# To build a Python that this Debian does not have.
python_packages="build-essential libbz2-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev pkgconf zlib1g-dev"
# Roots of Debian machines for the tests of the packages: what swanroam's package needs, what Debian's strongSwan
# recommends, systemd, and rpm for stories of the RPMs.
root_packages="charon-systemd iproute2 libstrongswan-standard-plugins nftables passwd python3 python3-click
    python3-cryptography python3-rich rpm strongswan-swanctl systemd systemd-sysv"
build_packages="apparmor build-essential debhelper dh-apparmor dh-python lintian mmdebstrap pipx python3 python3-venv rpm
    rpmlint systemd-container"

say() { printf '== %s\n' "$*" >&2; }
die() {
    printf 'swanroam: %s\n' "$*" >&2
    exit 1
}

bootstrap() {
    mkdir -p build
    if [ "$1" = build ]; then
        # shellcheck disable=SC2086 -- a list of names
        install_packages $build_packages
        need_build_tools
        return
    fi
    [ "$1" = plain ] || need_packages
    need_environment
}

in_lab() {
    if lab_works_here; then
        say "this kernel has what the lab needs: namespaces here"
        "$@"
        return
    fi
    need_guest
    sh tests/lab/guest/boot.sh "$kernel" "$system" "$environment" "$PWD/build" "$PWD" "$@"
}

# Like in_lab, but in a guest on each of up to four processors. SWANROAM_CLAIMS in their environment is a folder by which
# the commands divide the work among them. The exit status is 0 when that of each is.
in_labs() {
    processors=$("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0))[-4:])')
    case $processors in *' '*) ;; *) processors= ;; esac
    if [ -z "$processors" ] || [ "${SWANROAM_GUEST:-}" = emulated ] || lab_works_here; then
        in_lab "$@"
        return
    fi
    need_guest
    claims=build/claims
    rm -rf $claims
    mkdir $claims
    for processor in $processors; do
        {
            taskset -c "$processor" sh tests/lab/guest/boot.sh "$kernel" "$system" "$environment" "$PWD/build" "$PWD" \
                env SWANROAM_CLAIMS="$PWD/$claims" "$@" || echo "guest $processor: $?" >>$claims/failed
        } 2>&1 | sed -u "s/^/[$processor] /" &
    done
    wait
    [ ! -e $claims/failed ]
}

# What it takes to boot a guest: $kernel, $system, $environment, and Python compiled here, not by every program in the guest.
need_guest() {
    [ "$(id -u)" = 0 ] || die "namespaces and tunnels need root: run this with sudo"
    need_kernel
    need_system
    "$python" -m compileall -q plugin hooks tests
    say "booting $kernel as a guest${system:+ over $system}: this kernel ($(uname -r)) lacks what the lab needs, or another was asked for"
}

# True when states, delays and queues can really be made: modules may be missing whatever the configuration says.
lab_works_here() {
    [ -z "${SWANROAM_KERNEL:-}${SWANROAM_SYSTEM:-}${SWANROAM_PYTHON:-}" ] && [ "${SWANROAM_LAB:-}" != guest ] || return 1
    [ "$(id -u)" = 0 ] && command -v ip nft tc >/dev/null || return 1
    modprobe -q -a esp4 xfrm_user sch_netem nft_queue nft_masq nft_redir nf_conntrack_netlink veth 2>/dev/null || :
    scratch=swanroam-probe-$$
    ip netns add "$scratch" 2>/dev/null || return 1
    works=no
    if ip -n "$scratch" xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode tunnel \
        aead 'rfc4106(gcm(aes))' 0x0102030405060708091011121314151617181920 128 2>/dev/null &&
        ip netns exec "$scratch" tc qdisc add dev lo root netem delay 1ms 2>/dev/null &&
        ip netns exec "$scratch" nft 'add table ip t; add chain ip t c; add rule ip t c queue num 1 bypass' 2>/dev/null; then
        works=yes
    fi
    ip netns del "$scratch"
    [ "$works" = yes ]
}

# Finds or makes the kernel for the guest, $kernel. SWANROAM_KERNEL is another version than that of this Debian.
need_kernel() {
    if [ "${SWANROAM_GUEST:-}" = emulated ]; then
        # shellcheck disable=SC2086 -- a list of names
        install_packages $emulated_packages
        [ -x .venv/bin/vng ] || shown "$python" -m pip install --disable-pip-version-check virtme-ng
        # The cloud kernels cannot mount this file system (no 9p).
        kernel=$(ls /boot | sed -n 's/^vmlinuz-//p' | grep -v cloud | grep "^${SWANROAM_KERNEL:-[0-9.]*}\." | sort -V | tail -n 1)
        [ -n "$kernel" ] || die "no such kernel for the guest below /boot"
        return
    fi
    version=${SWANROAM_KERNEL:-$(dpkg-query -W -f '${Depends}' linux-source | sed 's/linux-source-//; s/ .*//')}
    kernel=$PWD/.kernels/linux-$version
    install_packages "linux-source-$version"
    wanted=$(dpkg-query -W "linux-source-$version" | cat - tests/lab/guest/kernel.config tests/lab/guest/kernel.sh | cksum)
    [ "$(cat "$kernel.made-from" 2>/dev/null)" = "$wanted" ] && return 0
    say "building linux-$version for the guest (five minutes on two processors)"
    log=build/kernel.log
    shown nice sh tests/lab/guest/kernel.sh "/usr/src/linux-source-$version.tar.xz" "$kernel"
    log=build/install.log
    echo "$wanted" >"$kernel.made-from"
}

missing_packages() {
    for package; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

need_packages() {
    # shellcheck disable=SC2086 -- lists of names
    install_packages $packages
    if ! lab_works_here; then
        [ "$(dpkg --print-architecture)" = amd64 ] ||
            die "this kernel cannot run the lab, and the guest that would is made for amd64 only"
        # shellcheck disable=SC2086
        install_packages $guest_packages
    fi
}

install_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086
    set -- $missing
    [ "$(id -u)" = 0 ] || die "these packages are missing, run this with sudo: $*"
    say "installing $# packages: $*"
    shown apt-get update -q
    shown env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
}

# Runs a command, shows the lines that tell progress, keeps all of them, and shows the end of them if it fails.
shown() {
    # A command that writes nothing is not to be judged by the last line of another.
    printf '== %s\n' "$*" >>"$log"
    {
        "$@" 2>&1 || echo "failed: $?"
    } | tee -a "$log" | sed -u -n \
        -e 's/^Get:\([0-9]*\) [^ ]* [^ ]* \([^ ]* [^ ]*\).*/   get \1 \2/p' \
        -e '/^Setting up/s/^/   /p' -e '/^Collecting/s/^/   /p' -e '/^Downloading/s/^/   /p' \
        -e '/^Installing/s/^/   /p' -e '/^Successfully/s/^/   /p' \
        -e 's/^  AR      \(.*\)\/built-in.a/   built \1/p' | cut -c 1-110 >&2
    if tail -n 1 "$log" | grep -q '^failed: '; then
        tail -n 20 "$log" >&2
        die "$1 $2 failed, see above and $log"
    fi
}

# Makes .roots/SUITE, for the tests of the packages. Beside build/, because the guest reads build/ slowly.
need_root() {
    # shellcheck disable=SC2086 -- a list of names
    made_root "$1" ".roots/$1" $root_packages
}

# Finds or makes the file system of the guest, $system: .roots/SUITE-lab, where SWANROAM_SYSTEM names a suite of Debian,
# and below it $environment, that takes the place of .venv: of the suite's own Python, or of the version SWANROAM_PYTHON.
# Otherwise the file system is that of this machine, and both are empty.
need_system() {
    system='' environment=''
    if [ -z "${SWANROAM_SYSTEM:-}" ]; then
        [ -z "${SWANROAM_PYTHON:-}" ] || die "SWANROAM_PYTHON is for a guest with SWANROAM_SYSTEM"
        return 0
    fi
    install_packages mmdebstrap
    system=$PWD/.roots/$SWANROAM_SYSTEM-lab
    # shellcheck disable=SC2086 -- a list of names
    made_root "$SWANROAM_SYSTEM" ".roots/$SWANROAM_SYSTEM-lab" $system_packages
    version=$(readlink "$system/usr/bin/python3")
    version=${SWANROAM_PYTHON:-${version#python}}
    interpreter=/usr/bin/python$version
    if [ ! -e "$system$interpreter" ]; then
        interpreter=/opt/python-$version/bin/python$version
        need_python "$SWANROAM_SYSTEM" "$version" "$system"
    fi
    environment=/venv-$version
    wanted=$(echo "$PWD" | cat pyproject.toml tests/lab/guest/environment.sh - | cksum)
    [ "$(cat "$system$environment/.made-from" 2>/dev/null)" = "$wanted" ] && return 0
    say "making the environment of $SWANROAM_SYSTEM for Python $version"
    shown unshare --mount sh tests/lab/guest/environment.sh "$system" "$environment" "$interpreter" "$PWD"
    echo "$wanted" >"$system$environment/.made-from"
}

# need_python SUITE VERSION ROOT: from the source package of the Debian that has this version, in ROOT/opt/python-VERSION.
need_python() {
    there=$3/opt/python-$2
    wanted=$(echo "$python_packages" | cat tests/lab/guest/python.sh - | cksum)
    [ "$(cat "$there/.made-from" 2>/dev/null)" = "$wanted" ] && return 0
    say "building Python $2 for $1 (five minutes on two processors)"
    {
        sources_of "$1"
        for other in bookworm trixie; do
            echo
            sources_of $other | sed 's/^Types:.*/Types: deb-src/; s/^deb /deb-src /'
        done
    } >build/python.sources
    shown nice mmdebstrap --variant=apt --include="$(echo $python_packages | tr ' ' ',')" \
        --customize-hook="sh tests/lab/guest/python.sh \"\$1\" '$2' '$3'" "$1" /dev/null build/python.sources
    echo "$wanted" >"$there/.made-from"
}

# made_root SUITE TARGET PACKAGES...: from the mirror that this machine uses, unless it is there.
made_root() {
    suite=$1 root=$2
    shift 2
    wanted=$(echo "$@" | cksum)
    [ "$(cat "$root.made-from" 2>/dev/null)" = "$wanted" ] && return 0
    say "making $root"
    rm -rf "$root"
    mkdir -p .roots
    sources_of "$suite" >build/root.sources
    shown mmdebstrap --variant=apt --include="$(echo "$@" | tr ' ' ',')" "$suite" "$root" build/root.sources
    echo "$wanted" >"$root.made-from"
}

# The list for apt of a suite, at the mirror that this machine uses.
sources_of() {
    sources=/etc/apt/sources.list.d/debian.sources
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    sed -E "s/\\b(bookworm|trixie)/$1/g" "$sources"
}

# Makes .roots/SUITE-installed, or .roots/SUITE-rpm, with a package installed: install_root SUITE PACKAGE. Here, because
# dpkg takes long in the guest.
install_root() {
    case $2 in *.rpm) there=.roots/$1-rpm ;; *) there=.roots/$1-installed ;; esac
    rm -rf "$there"
    cp -a --reflink=auto ".roots/$1" "$there"
    cp "$2" "$there/root/package"
    case $2 in
    # What it needs is there, by the names that Debian has for it. Plugins want the root to be a mount point.
    *.rpm) shown chroot "$there" rpm --dbpath /var/lib/rpm --nodeps --noplugins --install /root/package ;;
    *) shown chroot "$there" dpkg --install /root/package ;;
    esac
    rm "$there/root/package"
}

need_build_tools() {
    pins=packaging/pins/tools.txt
    cmp -s "$pins" build/tools/made-from && return 0
    rm -rf build/tools
    /usr/bin/python3 -m venv build/tools
    shown build/tools/bin/python -m pip install --disable-pip-version-check --progress-bar off -r "$pins"
    cp "$pins" build/tools/made-from
}

need_environment() {
    wanted=$(cat pyproject.toml packaging/bootstrap.sh | cksum)
    [ "$(cat .venv/.made-from 2>/dev/null)" = "$wanted" ] && return 0
    interpreter=
    for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            interpreter=$candidate
            break
        fi
    done
    [ -n "$interpreter" ] || die "Python 3.11 or newer, with venv, is needed"
    say "making .venv with $("$interpreter" --version)"
    rm -rf .venv
    "$interpreter" -m venv .venv
    shown "$python" -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]'
    echo "$wanted" >.venv/.made-from
}
