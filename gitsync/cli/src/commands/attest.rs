//! `cairnctl attest`: asks a machine's TPM what started and what is applied, and checks every word of the answer here.

use super::Surroundings;
use super::machine::{ask, told};
use crate::arguments::{Attest, Form};
use crate::output;
use anyhow::{Context as _, Result, bail};
use init_boot::artefact::{ARTEFACT_HEADER_BYTES_MAX, ArtefactHeader, Part};
use init_boot::expected_uki_pcr;
use init_boot::tpm::{NONCE_BYTES_MAX, Pcr, PcrValue};
use machined_access::{AttestRefusal, Attested, Evidence, Expected, check_attestation};
use machined_api as api;
use machined_ids::CommitId;
use serde_json::json;
use std::path::Path;

/// The longest file that is read as an image, in bytes: header, two parts and their padding.
const IMAGE_BYTES_MAX: u64 = 2 << 30;

/// Asks and checks; what does not hold is an error with every reason.
pub(super) async fn attest(around: &Surroundings, attest: &Attest) -> Result<()> {
    let image = attest.image.as_deref().map(image_pcr).transpose()?;
    let commit: Option<CommitId> = match &attest.commit {
        Some(commit) => Some(super::order::whole(commit)?.parse()?),
        None => None,
    };
    let mut nonce = vec![0; NONCE_BYTES_MAX];
    getrandom::fill(&mut nonce).context("drawing a nonce")?;
    let (_, context) = around.chosen()?;
    let identity = context.machine(around.machine.as_ref())?.1.identity.clone();
    let (machine, mut client) = ask(around).await?;
    let reply = client.attest(api::AttestRequest { nonce: nonce.clone() }).await.map_err(told)?.into_inner();
    let expected = Expected { nonce, machine: identity, image, commit, pinned: attest.pcr.clone() };
    match check_attestation(&evidence(reply)?, &expected) {
        Ok(attested) => show(around, machine.as_str(), &attested, &expected),
        Err(refusals) => refuse(around, machine.as_str(), &refusals),
    }
}

fn evidence(reply: api::AttestReply) -> Result<Evidence> {
    let value = |bytes: &Vec<u8>| bytes.as_slice().try_into().map(PcrValue::from_bytes).ok();
    let values: Option<Vec<PcrValue>> = reply.values.iter().map(value).collect();
    Ok(Evidence {
        key: reply.key,
        attested: reply.attested,
        signature: reply.signature,
        values: values.context("the machine sent registers of another length")?,
        log: reply.log,
        identity: reply.identity,
        identity_signature: reply.identity_signature,
    })
}

/// What PCR 11 must be for an artefact or for a bare UKI.
fn image_pcr(path: &Path) -> Result<PcrValue> {
    let reading = || format!("reading {}", path.display());
    let length = std::fs::metadata(path).with_context(reading)?.len();
    if length > IMAGE_BYTES_MAX {
        bail!("{} is no artefact and no UKI: it has {length} bytes", path.display());
    }
    let file = std::fs::read(path).with_context(reading)?;
    let begin = &file[..file.len().min(ARTEFACT_HEADER_BYTES_MAX)];
    let uki = match ArtefactHeader::parse(begin) {
        Ok(header) => {
            let start = usize::try_from(header.layout().uki_offset)?;
            let end = start.saturating_add(usize::try_from(header.manifest.uki.bytes)?);
            let uki = file.get(start..end).with_context(|| format!("{} is cut off", path.display()))?;
            if Part::of(uki) != header.manifest.uki {
                bail!("the UKI in {} is not the one that its manifest names; fetch or build it again", path.display());
            }
            uki
        }
        Err(_) if file.starts_with(b"MZ") => file.as_slice(),
        Err(error) => return Err(error).with_context(|| format!("{} is no artefact", path.display())),
    };
    expected_uki_pcr(uki).with_context(|| format!("in {}", path.display()))
}

fn show(around: &Surroundings, machine: &str, attested: &Attested, expected: &Expected) -> Result<()> {
    let applied = attested.log.applied();
    let extensions: Vec<String> = attested.log.extensions().map(|digest| digest.to_string()).collect();
    if around.form == Form::Json {
        let registers = attested.values.iter().map(|(pcr, value)| (pcr.number().to_string(), json!(value.to_string())));
        return output::json(&json!({
            "machine": machine, "holds": true, "refusals": [], "starts": attested.resets,
            "pcrs": registers.collect::<serde_json::Map<_, _>>(),
            "image": expected.image.map(|_| "as expected"),
            "applied": applied.map(|e| json!({ "generation": e.generation, "step": e.step, "commit": e.commit })),
            "extensions": extensions,
        }));
    }
    let pinned = |pcr: Pcr| {
        if expected.pinned.iter().any(|(known, _)| *known == pcr) {
            "as expected"
        } else {
            "not compared; pin it: --pcr"
        }
    };
    let image = if expected.image.is_some() { "as expected" } else { "not compared; give --image" };
    let commit = applied.map_or("nothing yet".to_owned(), |entry| entry.commit.clone());
    let judged = if expected.commit.is_some() { "as expected" } else { "not compared; give --commit" };
    println!("{machine}: its TPM signed this for a fresh nonce, with a key that the machine's identity vouches for");
    for (pcr, value) in &attested.values {
        let what = match *pcr {
            Pcr::BOOT_PROGRAMS => format!("boot loader: {}", pinned(*pcr)),
            Pcr::SECURE_BOOT => format!("Secure Boot: {}", pinned(*pcr)),
            Pcr::UKI => format!("image: {image}"),
            Pcr::OVERRIDES => "nothing was added to the image".to_owned(),
            _ => format!(
                "applied {} in {} activations: {judged}",
                commit,
                attested.log.entries().len() - extensions.len()
            ),
        };
        println!("  {pcr:<7} {value}  {what}");
    }
    for digest in &extensions {
        println!("  extension {digest} was merged");
    }
    println!("not proven: that the key lies in a real TPM (its maker's certificate is not looked at)");
    Ok(())
}

fn refuse(around: &Surroundings, machine: &str, refusals: &[AttestRefusal]) -> Result<()> {
    if around.form == Form::Json {
        let list = refusals.iter().map(|one| json!({ "reason": one.reason(), "message": one.to_string() }));
        output::json(&json!({ "machine": machine, "holds": false, "refusals": list.collect::<Vec<_>>() }))?;
    }
    let lines: Vec<String> = refusals.iter().map(|refusal| format!("  {}: {refusal}", refusal.reason())).collect();
    bail!(
        "{machine} does not prove what was asked:\n{}\nlook at it before you trust it: cairnctl upgrade status, cairnctl commits",
        lines.join("\n")
    )
}

/// Reads `7=HEX`.
pub(crate) fn pinned(text: &str) -> Result<(Pcr, PcrValue), String> {
    let wrong = || {
        "expected a register that is attested and its value, such as 7=0123...; cairnctl attest shows them".to_owned()
    };
    let (number, value) = text.split_once('=').ok_or_else(wrong)?;
    let pcr = number.parse().ok().and_then(Pcr::new).filter(|pcr| machined_access::ATTESTED.contains(pcr));
    Ok((pcr.ok_or_else(wrong)?, PcrValue::parse(value).ok_or_else(wrong)?))
}
