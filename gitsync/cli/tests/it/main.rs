//! `cairnctl` as people and CI run it: the built program, real git, real ssh-keygen, no cluster and no network.

mod checkout;
mod enroll;
mod hardware;
mod lab;
mod sign;
mod verify;
