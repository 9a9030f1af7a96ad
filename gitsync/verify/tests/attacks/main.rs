//! The verifier against real repositories, made by real git and ssh-keygen. Tests named `t<number>` are the attacks of that
//! number in the specification's list.

mod emergencies;
mod freshness;
mod history;
mod hostile;
mod lab;
mod policies;
mod properties;
mod signatures;
mod state;
mod statements;
