"""The kernel: rtnetlink, XFRM, nftables and NFQUEUE."""
