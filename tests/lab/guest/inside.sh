#!/bin/sh
# First program in the guest that boot.sh starts: inside.sh ARTIFACTS CHECKOUT ORDER SYSTEM [ENVIRONMENT]. Makes a root
# that is writable, runs ORDER, a script in ARTIFACTS, and leaves its exit status in ORDER.status. As the first process of
# all it has everything to make, and ends the guest.
set -u
artifacts=$1 checkout=$2 order=$3 system=$4 environment=${5:-}
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

# The kernel that is a program reads the files of its machine by itself.
from_nothing() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t securityfs security /sys/kernel/security
    mount -t cgroup2 cgroup /sys/fs/cgroup
    mount -t tmpfs -o mode=755 run /run
    mkdir -p /dev/pts /dev/shm /run/lower
    mount -t devpts pts /dev/pts
    mount -t tmpfs shm /dev/shm
    ip link set lo up
    mount --bind / /run/lower
}

# cache=loose keeps what was read once; nobody changes the files while the guest runs.
emulated() {
    for module in veth bridge dummy sch_netem esp4 esp6 xfrm_user gcm ccm ctr cbc seqiv authenc echainiv hmac \
        sha1_generic sha256_generic sha512_generic chacha20poly1305 nf_tables nft_chain_nat nft_masq nft_redir nft_queue \
        nft_xfrm nft_limit nft_fib_inet nfnetlink_queue nf_conntrack_netlink xfrm_interface ipcomp xfrm4_tunnel deflate; do
        modprobe "$module" || echo "module $module: not in this kernel" >&2
    done
    mkdir -p /run/lower
    mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 cached /run/lower
}

# layered NAME FOLDER TARGET: a folder of the machine, which what is written to does not reach.
layered() {
    mkdir -p "/run/layer/$1/upper" "/run/layer/$1/work" "$3"
    mount -t overlay -o "lowerdir=/run/lower$2,upperdir=/run/layer/$1/upper,workdir=/run/layer/$1/work" "$1" "$3"
}

root=/run/root
if [ $$ = 1 ]; then from_nothing; else emulated; fi
mkdir /run/layer
mount -t tmpfs -o mode=755 layer /run/layer
layered root "$system" $root
if [ "$system" != / ]; then
    layered checkout "$checkout" "$root$checkout"
    mount --bind "$root$environment" "$root$checkout/.venv"
fi
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
mount -t tmpfs -o mode=755 run $root/run
mkdir -p "$root$artifacts"
if [ $$ = 1 ]; then mount -t hostfs -o "$artifacts" artifacts "$root$artifacts"; else mount --rbind "$artifacts" "$root$artifacts"; fi

# Python compiles each module once for the whole boot, into the layer.
unset PYTHONDONTWRITEBYTECODE
SWANROAM_LAB_GUEST=1 chroot $root sh "$order"
echo "$?" >"$root$order.status"
[ $$ != 1 ] || exec poweroff -ff
