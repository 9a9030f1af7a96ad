//! The machine's controllers: network, block, time, services, identity.
