//! Pod network and service proxy: bridge, veth, addresses, nftables.
