//! Attacks on the transport, served for real by `tests_support::hostile` to the real caged fetch child: a fetch fails or what came
//! is refused, accepted does not move, and the machine goes on with an honest server afterwards.
//!
//! Bounds, asserted for every attack: at most half a minute more than the deadline of 60 s (two minutes on a machine), at most 2 GiB of
//! memory in the child, at most 256 MiB more in gitsync itself.

mod lab;

mod lies;
mod packs;
mod time;
mod tls;
