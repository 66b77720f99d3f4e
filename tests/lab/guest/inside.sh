#!/bin/sh
# First program in the guest that boot.sh starts: inside.sh ARTIFACTS. Makes a root that is fast and writable, loads the
# modules, runs the command and leaves its exit status.
set -eu
artifacts=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
for module in veth bridge dummy sch_netem esp4 esp6 xfrm_user gcm ccm ctr cbc seqiv authenc echainiv hmac sha1_generic sha256_generic \
    sha512_generic chacha20poly1305 nf_tables nft_chain_nat nft_masq nft_redir nft_queue nft_xfrm nft_limit nft_fib_inet nfnetlink_queue nf_conntrack_netlink wireguard \
    xfrm_interface ipcomp xfrm4_tunnel deflate; do
    modprobe "$module" || echo "module $module: not in this kernel" >&2
done

# cache=loose keeps what was read once; nobody changes the files while the guest runs.
mkdir -p /run/lower /run/layer /run/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 cached /run/lower
mount -t tmpfs -o mode=755 layer /run/layer
mkdir /run/layer/upper /run/layer/work
mount -t overlay -o lowerdir=/run/lower,upperdir=/run/layer/upper,workdir=/run/layer/work root /run/root
for name in proc sys dev; do mount --rbind "/$name" "/run/root/$name"; done
mount -t tmpfs -o mode=755 run /run/root/run
mkdir -p "/run/root$artifacts"
mount --rbind "$artifacts" "/run/root$artifacts"

# Python compiles each module once for the whole boot, into the layer.
unset PYTHONDONTWRITEBYTECODE
set +e
SWANROAM_LAB_GUEST=1 chroot /run/root sh "$artifacts/.guest-command"
echo "$?" >"$artifacts/.guest-status"
