#!/bin/sh
# Runs one command, as root, in a guest kernel that has ESP:
#
#     boot.sh KERNEL SYSTEM ENVIRONMENT ARTIFACTS CHECKOUT COMMAND...
#
# KERNEL is the path of a Linux for ARCH=um (kernel.sh), which runs as a program of this machine on one of its processors;
# or the release of a kernel of Debian's below /boot, which has all processors, emulated: that takes four times as long.
# SYSTEM is the root of another Debian that the command sees, with the checkout in it, and ENVIRONMENT, a folder of it, as
# the checkout's .venv; or both are empty, and the command sees the file system of this machine.
# What the command writes below ARTIFACTS (a folder of the checkout) stays; every other write is forgotten with the
# guest. The exit status is the command's, and 125 when the guest did not come so far.
set -eu
kernel=$1 system=$2 environment=$3 artifacts=$4 checkout=$5
shift 5

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$artifacts"
# Of this guest: there may be others at the same time.
order=$artifacts/.guest-$$
status=$order.status
trap 'rm -f "$order" "$status"' EXIT
{
    printf 'cd "%s" || exit 125\nexec' "$checkout"
    for word; do printf " '%s'" "$(printf %s "$word" | sed "s/'/'\\\\''/g")"; done
    printf '\n'
} >"$order"

# This kernel and the programs on it take turns: on one processor, the last that is allowed, that is four times as fast as
# on two.
as_program() {
    last=$(taskset -cp $$ | sed 's/.*[ ,-]//')
    timeout 3600 taskset -c "$last" "$kernel" mem=2G quiet rootfstype=hostfs ro init="$here/inside.sh" -- "$artifacts" "$checkout" \
        "$order" "${system:-/}" "$environment"
}

# --disable-kvm: on hosts that are virtual machines themselves /dev/kvm may be there and the guest hang in it.
# The second export of the root is what inside.sh mounts with a cache; virtme-ng's own has none, and Python starts in
# seconds there. no5lvl and mitigations=off spare the emulator page walks and retpolines. tsc: with the HPET each look
# at the clock leaves the emulated CPU.
emulated() {
    cpus=$(nproc)
    [ "$cpus" -le 4 ] || cpus=4
    PATH=$checkout/.venv/bin:$PATH timeout 5000 vng --disable-kvm --force-9p --run "$kernel" --cpus $cpus --memory 2G --name lab \
        --qemu-opts="-fsdev local,id=cached,path=/,security_model=none,readonly=on,multidevs=remap" \
        --qemu-opts="-device virtio-9p-pci,fsdev=cached,mount_tag=cached" \
        --append "no5lvl mitigations=off tsc=reliable clocksource=tsc random.trust_cpu=on" \
        --rwdir "$artifacts" --exec "sh '$here/inside.sh' '$artifacts' '$checkout' '$order' '${system:-/}' '$environment'"
}

# cat: QEMU opens its output anew, and would truncate a file.
case $kernel in */*) as_program ;; *) emulated ;; esac </dev/null 2>&1 | cat
[ -s "$status" ] || { echo "the guest kernel $kernel ended before the command did" >&2; exit 125; }
result=$(cat "$status")
exit "$result"
