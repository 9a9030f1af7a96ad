//! Which part of the pod network is free.

use k8s_openapi::api::core::v1::Node;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Bits of a node's part: 254 pods, upstream's default.
pub(super) const PREFIX: u8 = 24;

/// The first address of the part that a node has.
pub(super) fn part(node: &Node) -> Option<Ipv4Addr> {
    let text = node.spec.as_ref()?.pod_cidr.as_ref()?;
    text.split_once('/')?.0.parse().ok()
}

/// The lowest part of `pods` (first address and prefix length) that is not `taken`; `None` when all are.
pub(super) fn lowest_free(pods: (Ipv4Addr, u8), taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let parts = 1_u32.checked_shl(u32::from(PREFIX.checked_sub(pods.1)?))?;
    let at = |number: u32| Ipv4Addr::from_bits(pods.0.to_bits() + (number << (32 - PREFIX)));
    (0..parts).map(at).find(|part| !taken.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_part_is_next_until_none_is_left() {
        let (base, mut taken) = (Ipv4Addr::new(10, 244, 0, 0), BTreeSet::new());
        for third in [0, 1, 2, 3] {
            let free = lowest_free((base, 22), &taken);
            assert_eq!(free, Some(Ipv4Addr::new(10, 244, third, 0)));
            taken.extend(free);
        }
        assert_eq!(lowest_free((base, 22), &taken), None);
        taken.remove(&Ipv4Addr::new(10, 244, 1, 0));
        assert_eq!(lowest_free((base, 22), &taken), Some(Ipv4Addr::new(10, 244, 1, 0)));
        assert_eq!(lowest_free((base, 24), &taken), None, "a network of one part, which is taken");
        assert_eq!(lowest_free((base, 25), &taken), None, "half a part");
    }
}
