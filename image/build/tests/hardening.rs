//! What docs/security/hardening.md says of the kernel's command line, held against the profiles that images are built from.

use std::path::Path;

use image_build::profile::Profile;

/// What every profile has. The list is that of the Kernel Self-Protection Project, without what Debian's kernel has as its default.
const REQUIRED: [&str; 21] = [
    "lockdown=integrity",
    "module.sig_enforce=1",
    "panic=10",
    "oops=panic",
    "slab_nomerge",
    "page_alloc.shuffle=1",
    "iommu.strict=1",
    "iommu.passthrough=0",
    "proc_mem.force_override=ptrace",
    "sysctl.kernel.kptr_restrict=1",
    "sysctl.kernel.sysrq=0",
    "sysctl.kernel.yama.ptrace_scope=1",
    "sysctl.kernel.kexec_load_disabled=1",
    "sysctl.kernel.unprivileged_bpf_disabled=1",
    "sysctl.dev.tty.ldisc_autoload=0",
    "sysctl.net.core.bpf_jit_harden=1",
    "sysctl.vm.mmap_rnd_bits=32",
    "sysctl.fs.protected_fifos=2",
    "sysctl.fs.protected_regular=2",
    "sysctl.fs.protected_hardlinks=1",
    "sysctl.fs.protected_symlinks=1",
];

/// What would undo one of them, or open the machine in another way; the beginning of a parameter.
const FORBIDDEN: [&str; 9] =
    ["mitigations=off", "nokaslr", "init=", "rdinit=", "nopti", "pti=off", "init_on_alloc=0", "selinux=0", "debug"];

fn profiles() -> [Profile; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles");
    ["cloud", "metal"].map(|name| Profile::load(&folder, name).expect("because the profile is well formed"))
}

#[test]
fn every_profile_hardens_the_kernel() {
    for profile in profiles() {
        for required in REQUIRED {
            let found = profile.command_line.iter().filter(|parameter| *parameter == required).count();
            assert_eq!(found, 1, "{required} on the command line of {}", profile.name);
        }
        for forbidden in FORBIDDEN {
            let found = profile.command_line.iter().find(|parameter| parameter.starts_with(forbidden));
            assert_eq!(found, None, "on the command line of {}", profile.name);
        }
    }
}

#[test]
fn every_profile_loads_the_driver_of_a_watchdog() {
    for profile in profiles() {
        assert!(profile.modules.boot.iter().any(|module| module == "i6300esb"), "{}", profile.name);
    }
}
