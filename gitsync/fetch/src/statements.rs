//! Which refs may hold statements, and which of them one fetch brings. Pure; the child asks it for a server's refs and for a bundle's.

use gix::ObjectId;
use std::collections::{BTreeSet, HashSet};

/// Folders of refs that point at statements. Those that stop something come first.
pub(crate) const FOLDERS: [&str; 4] =
    ["refs/cairn/recovery/", "refs/cairn/revoke/", "refs/cairn/fresh/", "refs/cairn/approvals/"];

/// Refs of each folder that are looked at, in the order of their names: a server may have millions, and people remove what is accepted.
const MAX_REFS: usize = 1024;

/// Characters of a ref's name behind its folder.
const MAX_NAME: usize = 200;

/// Whether a ref's name is one that people's tools write: nothing in it means something else elsewhere (a glob, a colon, a caret).
fn plain(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with(['.', '-']) && name.bytes().all(good)
}

/// The statements to bring: refs with ids that are not known, at most `limit`, each id once. The rest comes with a later fetch.
pub(crate) fn choose<'a>(
    refs: impl Iterator<Item = (&'a str, ObjectId)> + Clone,
    known: &[String],
    limit: usize,
) -> Vec<(String, ObjectId)> {
    let known: HashSet<&str> = known.iter().map(String::as_str).collect();
    let (mut chosen, mut seen) = (Vec::new(), HashSet::new());
    for folder in FOLDERS {
        let inside = refs.clone().filter(|(name, _)| name.strip_prefix(folder).is_some_and(plain));
        // Ordered, so that which ones are looked at does not depend on the server's order.
        let inside: BTreeSet<(&str, ObjectId)> = inside.collect();
        for (name, id) in inside.into_iter().take(MAX_REFS) {
            if chosen.len() < limit && !known.contains(id.to_string().as_str()) && seen.insert(id) {
                chosen.push((name.to_owned(), id));
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ObjectId {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        ObjectId::from_bytes_or_panic(&bytes)
    }

    #[test]
    fn what_is_known_is_not_asked_for_and_the_rest_comes_later() {
        let names: Vec<_> = (0..600).map(|n| format!("refs/cairn/approvals/{n:04}-ada")).collect();
        let refs = || names.iter().enumerate().map(|(n, name)| (name.as_str(), id(n as u32)));
        let (mut known, mut rounds) = (Vec::new(), 0);
        loop {
            let chosen = choose(refs(), &known, 256);
            if chosen.is_empty() {
                break;
            }
            rounds += 1;
            known.extend(chosen.iter().map(|(_, id)| id.to_string()));
        }
        assert_eq!((known.len(), rounds), (600, 3));
    }

    #[test]
    fn t36_a_million_refs_are_a_bounded_request_and_do_not_hide_a_revocation() {
        let names: Vec<_> = (0..1_000_000).map(|n| format!("refs/cairn/approvals/{n:07}")).collect();
        let approvals = names.iter().enumerate().map(|(n, name)| (name.as_str(), id(n as u32)));
        let refs = approvals.chain([("refs/cairn/revoke/zz-ada", id(u32::MAX)), ("refs/heads/main", id(7))]);
        let chosen = choose(refs.clone(), &[], 256);
        assert_eq!((chosen.len(), chosen[0].0.as_str()), (256, "refs/cairn/revoke/zz-ada"));
        let all: Vec<_> = choose(refs.clone(), &[], usize::MAX).into_iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(all.len(), MAX_REFS + 1);
        assert!(choose(refs, &all, 256).is_empty(), "what lies beyond never looks like news");
    }

    #[test]
    fn names_that_mean_something_to_git_are_left_out() {
        let bad = ["a:refs/heads/main", "*", "a^", "../x", "a/b", "", ".lock", "-x", "a b", "a\u{e9}"];
        let names: Vec<_> = bad.iter().map(|name| format!("refs/cairn/fresh/{name}")).collect();
        assert!(choose(names.iter().map(|name| (name.as_str(), id(1))), &[], 256).is_empty());
        assert_eq!(choose([("refs/cairn/fresh/3f-ada", id(1))].into_iter(), &[], 256).len(), 1);
    }
}
