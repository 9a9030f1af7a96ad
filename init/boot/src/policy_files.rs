//! Where the policy of the running image lies: systemd's stub lays it into the initramfs, stage one carries it over, machined reads it.
//!
//! Nothing about these files is secret, and nobody believes them: the TPM judges what they hold.

/// The public half of the policy key, as PEM.
pub const POLICY_KEY: &str = "/run/cairn/policy-key.pem";
/// What it signed, as JSON.
pub const POLICY_SIGNATURES: &str = "/run/cairn/policy-signatures.json";
/// The longest of both, in bytes: some dozens of signatures.
pub const POLICY_PART_BYTES_MAX: usize = 64 * 1024;

/// From where in the initramfs (systemd-stub(7)) to where on the machine.
pub const POLICY_PARTS: [(&str, &str); 2] =
    [("/.extra/tpm2-pcr-public-key.pem", POLICY_KEY), ("/.extra/tpm2-pcr-signature.json", POLICY_SIGNATURES)];
