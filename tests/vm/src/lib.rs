//! Boots real images in QEMU.
