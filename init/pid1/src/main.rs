//! PID 1: initramfs /init and the real root's first process.

fn main() {}
