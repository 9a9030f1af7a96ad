//! The controllers' traits on Linux, and their fakes.
