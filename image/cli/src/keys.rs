//! `cairn-image keys`, `sign` and `verify`: who vouches for an artefact.
//!
//! Keys are SSH keys and ssh-keygen signs, so that passphrases, agents and hardware keys work as everywhere else. Must never read a
//! private key itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use image_build::artefact::{self, Judged};
use image_build::{policy, secure_boot};
use init_boot::artefact::{ArtefactHeader, IMAGE_NAMESPACE};

/// What makes, lists and uses keys of OpenSSH.
const SSH_KEYGEN: &str = "ssh-keygen";
/// How it is installed.
const INSTALL: &str = "cannot run ssh-keygen; install it with: apt-get install openssh-client";
/// File name of an image key.
const IMAGE_KEY: &str = "image-key";

/// Keys that vouch for images.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Keys,
}

#[derive(Subcommand)]
enum Keys {
    Generate(Generate),
}

/// Make an SSH key that signs artefacts (image-key and image-key.pub), keys for Secure Boot, or a policy key for encrypted disks.
///
/// Its passphrase is asked for on the terminal. A key that exists is never replaced. To have machines take what it signs, add its
/// public half to a principal of the cluster's repository with use "image".
#[derive(Args)]
struct Generate {
    /// Folder for the key.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Ask for no passphrase: whoever can read the file can sign.
    #[arg(long)]
    no_passphrase: bool,
    /// Make PK, KEK and db instead: RSA keys with certificates, and the .auth files that machines enrol. Whoever has the db key
    /// decides what these machines boot. They have no passphrase: keep PK.key and KEK.key away from where images are built.
    #[arg(long, conflicts_with = "no_passphrase")]
    secure_boot: bool,
    /// Make a policy key instead: policy.key and policy.pub. Machines that an image with its signature starts for the first time encrypt
    /// their disks, and only images with its signature open them by themselves. It has no passphrase: whoever has it can make an image
    /// that reads the disks, and when it is lost no new image opens them but with their recovery keys.
    #[arg(long, conflicts_with_all = ["no_passphrase", "secure_boot"])]
    policy: bool,
    /// Whose keys these are; stands in the certificates.
    #[arg(long, value_name = "NAME", default_value = "Cairn", requires = "secure_boot")]
    owner: String,
}

/// Sign an artefact, so that machines whose repository names the key take it.
///
/// Adds one signature (SSH, namespace cairn.image.v1) over the artefact's manifest, and changes neither its content nor its image
/// digest. The whole artefact is hashed before.
#[derive(Args)]
pub(crate) struct SignArguments {
    /// The artefact.
    #[arg(value_name = "FILE")]
    pub(crate) artefact: PathBuf,
    /// Private key, or a public key when an agent holds the rest.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) key: PathBuf,
}

/// Check an artefact whole, and that an allowed key signed it.
///
/// Ends with 0 when the content is what the manifest names and at least one signature is by an allowed key, with 1 otherwise, and
/// says why.
#[derive(Args)]
pub(crate) struct VerifyArguments {
    /// The artefact.
    #[arg(value_name = "FILE")]
    pub(crate) artefact: PathBuf,
    /// File with allowed public keys, one a line as in a .pub file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) allowed: PathBuf,
}

/// Makes keys.
pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Keys::Generate(generate) => generate.run(),
    }
}

impl Generate {
    fn run(&self) -> anyhow::Result<()> {
        let folder = &self.folder;
        if self.secure_boot {
            for path in secure_boot::generate(folder, &self.owner)? {
                println!("{}", path.display());
            }
            println!("  build with    cairn-image build --secure-boot {}", folder.display());
            return Ok(());
        }
        if self.policy {
            for path in policy::generate(folder)? {
                println!("{}", path.display());
            }
            println!("  build with    cairn-image build --policy-key {}", folder.display());
            return Ok(());
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make folder {}", folder.display()))?;
        let path = folder.join(IMAGE_KEY);
        ensure!(!path.exists(), "{} exists already; keys are never replaced, name another folder", path.display());
        let mut command = Command::new(SSH_KEYGEN);
        command.args(["-q", "-t", "ed25519", "-C", "cairn image key", "-f"]).arg(&path);
        if self.no_passphrase {
            command.args(["-N", ""]);
        }
        ensure!(command.status().context(INSTALL)?.success(), "ssh-keygen made no key; its message is above");
        let public = path.with_extension("pub");
        println!("{}", public.display());
        println!("  sign with     cairn-image sign --key {} FILE", path.display());
        println!("  verify with   cairn-image verify --allowed {} FILE", public.display());
        Ok(())
    }
}

/// Signs.
pub(crate) fn sign(arguments: &SignArguments) -> anyhow::Result<()> {
    let header = artefact::sign(&arguments.artefact, artefact::read, |manifest| {
        ssh_sign(&arguments.key, IMAGE_NAMESPACE, manifest)
    })?;
    println!("{}", arguments.artefact.display());
    println!("  image digest  {}", header.manifest.digest());
    println!("  signatures    {}", header.signatures().len());
    Ok(())
}

/// Signs a manifest for one purpose.
pub(crate) fn ssh_sign(key: &Path, namespace: &str, manifest: &str) -> anyhow::Result<String> {
    let mut command = Command::new(SSH_KEYGEN);
    command.args(["-Y", "sign", "-q", "-n", namespace, "-f"]).arg(key);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(INSTALL)?;
    let mut input = child.stdin.take().expect("because it was piped");
    let fed = input.write_all(manifest.as_bytes());
    drop(input);
    let output = child.wait_with_output().context("cannot wait for ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen could not sign with {}; its message is above", key.display());
    fed.context("cannot hand the manifest to ssh-keygen")?;
    String::from_utf8(output.stdout).context("ssh-keygen's signature is no text")
}

/// Verifies.
pub(crate) fn verify(arguments: &VerifyArguments) -> anyhow::Result<()> {
    let allowed = artefact::allowed_keys(&arguments.allowed)?;
    let header = artefact::read(&arguments.artefact)?;
    let judged = artefact::judge(&header, &allowed);
    println!("{}", arguments.artefact.display());
    println!(
        "  version       {} (number {}, profile {})",
        header.manifest.version, header.manifest.number, header.manifest.profile
    );
    println!("  image digest  {}", header.manifest.digest());
    for line in lines(&judged) {
        println!("  signature     {line}");
    }
    match judged.iter().any(|judged| matches!(judged, Judged::Allowed(_))) {
        true => Ok(()),
        false => bail!("{}", refusal(&header, arguments)),
    }
}

/// What is said about the signatures of an artefact, one line each.
pub(crate) fn lines(judged: &[Judged]) -> Vec<String> {
    let line = |judged: &Judged| match judged {
        Judged::Allowed(key) => format!("by {key}: allowed"),
        Judged::Stranger(key) => format!("by {key}: not among the allowed keys"),
        Judged::Untouched(key) => format!("by {key}: its holder did not touch the key"),
        Judged::Worthless(error) => format!("worth nothing: {error}"),
    };
    judged.iter().map(line).collect()
}

fn refusal(header: &ArtefactHeader, arguments: &VerifyArguments) -> String {
    let (artefact, allowed) = (arguments.artefact.display(), arguments.allowed.display());
    match header.signatures().len() {
        0 => format!("nobody signed {artefact}; sign it with: cairn-image sign --key KEY {artefact}"),
        _ => format!("no signature of {artefact} is by a key in {allowed}; ask who made it, or sign it yourself"),
    }
}
