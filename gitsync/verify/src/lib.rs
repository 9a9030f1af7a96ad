//! Signatures, policy and ancestry: the only maker of Verified<Commit>.
