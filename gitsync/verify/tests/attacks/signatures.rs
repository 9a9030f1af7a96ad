//! Attacks on signatures, keys and counting.

use crate::lab::{Lab, Make, target};
use gitsync_verify::{ObjectFormat, RawCommit, Reason, TrustState};

fn ready() -> (Lab, TrustState) {
    let lab = Lab::new();
    let machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    (lab, machine)
}

fn message() -> String {
    format!("change\n\n{}\n", target())
}

/// Puts a header in front of the message of a commit and makes that the branch.
fn with_header(lab: &Lab, commit: &machined_ids::CommitId, header: &str, before: &str) {
    let raw = String::from_utf8(lab.raw(commit)).expect("because the test commits are text");
    let at = raw.find(before).expect("because the commit has it");
    lab.forge(format!("{}{header}{}", &raw[..at], &raw[at..]).as_bytes());
}

/// A commit whose signature is this armour, over what git would sign.
fn with_armour(lab: &Lab, signed: &[u8], armour: &str) {
    let text = String::from_utf8(signed.to_vec()).expect("because the test commits are text");
    let at = text.find("\n\n").expect("because a message follows the headers") + 1;
    let folded = armour.trim_end_matches('\n').replace('\n', "\n ");
    lab.forge(format!("{}gpgsig {folded}\n{}", &text[..at], &text[at..]).as_bytes());
}

/// What a signature of the checked-out commit is over.
fn payload(lab: &Lab) -> Vec<u8> {
    let raw = lab.raw(&lab.head());
    RawCommit::parse(&raw, ObjectFormat::Sha1).expect("because git wrote it").signed
}

#[test]
fn t13_unsigned_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert_eq!(refusal.path.as_deref(), Some("apps/a.yaml"));
    assert_eq!(refusal.rule.as_deref(), Some("apps"));
}

#[test]
fn t14_an_unknown_key_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: Some("mallory"), message: message() });
    lab.refused(&mut machine, Reason::UnknownKey);
}

#[test]
fn t15_a_signature_for_another_purpose_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    with_armour(&lab, &signed, &lab.sign("ada", "file", &signed));
    lab.refused(&mut machine, Reason::WrongNamespace);
    with_armour(&lab, &signed, &lab.sign("ada", "git", &signed));
    assert!(lab.accepted(&mut machine).is_some(), "the same with git's own namespace is fine");
}

#[test]
fn a_signature_over_other_bytes_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    with_armour(&lab, &signed, &lab.sign("ada", "git", b"something else"));
    lab.refused(&mut machine, Reason::BadSignature);
}

#[test]
fn t16_a_removed_key_signs_nothing_more_whatever_the_date() {
    let (lab, mut machine) = ready();
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.accepted(&mut machine);
    let people = lab.people_kdl("commit", 1).lines().skip(1).map(|l| format!("{l}\n")).collect::<String>();
    lab.change("ada", "trust/people.kdl", &people.replace(" \"bob\"", ""));
    lab.accepted(&mut machine);
    // The lab's clock stands still in 2023, long before bob was removed; position in history decides.
    lab.change("bob", "apps/a.yaml", "a: 2\n");
    lab.refused(&mut machine, Reason::UnknownKey);
}

#[test]
fn t18_two_signature_headers_are_refused_in_either_order() {
    let (lab, mut machine) = ready();
    let commit = lab.commit(&Make { signer: Some("ada"), message: message() });
    with_header(&lab, &commit, "gpgsig junk\n", "gpgsig ");
    lab.refused(&mut machine, Reason::BadHeader);
    with_header(&lab, &commit, "\ngpgsig junk", "\n\nchange");
    lab.refused(&mut machine, Reason::BadHeader);
}

#[test]
fn t19_t20_smuggled_headers_are_refused() {
    let (lab, mut machine) = ready();
    let commit = lab.commit(&Make { signer: Some("ada"), message: message() });
    for header in ["\ngpgsig-sha256 junk", "\nmergetag object 1", "\nx-extra 1"] {
        with_header(&lab, &commit, header, "\n\nchange");
        lab.refused(&mut machine, Reason::BadHeader);
    }
}

#[test]
fn t21_an_unsigned_ancestor_does_not_hide_behind_a_signed_descendant() {
    let (lab, mut machine) = ready();
    let bad = lab.commit(&Make { signer: None, message: message() });
    lab.change("ada", "apps/b.yaml", "b: 1\n");
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert_eq!(refusal.commit, Some(bad));
}

#[test]
fn t22_cut_and_lengthened_armour_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    let armour = lab.sign("ada", "git", &signed);
    let lines: Vec<_> = armour.lines().collect();
    for crooked in [
        lines[..lines.len() - 1].join("\n"),
        format!("{armour}trailing"),
        format!("leading\n{armour}"),
        armour.replace('\n', "\r\n"),
        lines.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, line)| *line).collect::<Vec<_>>().join("\n"),
        format!("{armour}{armour}"),
    ] {
        with_armour(&lab, &signed, &crooked);
        lab.refused(&mut machine, Reason::BadSignature);
    }
}

#[test]
fn t24_one_person_with_two_keys_counts_once() {
    let lab = Lab::empty("sha1");
    lab.found();
    let two = lab.people_kdl("commit", 2);
    let second = format!("key \"{}\" {{ use \"commit\"; }}; }}\n", lab.public_key("bob2"));
    let (bob, rest) = two.split_once('\n').expect("because bob is on the first line");
    let bob = bob.strip_suffix('}').expect("because the block ends there");
    lab.change("ada", "trust/people.kdl", &format!("{bob} {second}{rest}"));
    let mut machine = lab.machine();
    lab.change("bob2", "apps/a.yaml", "a: 1\n");
    let refusal = lab.refused(&mut machine, Reason::UnderThreshold);
    assert!(refusal.message.contains("1 of 2"), "{}", refusal.message);
}

#[test]
fn t26_rsa_is_refused_in_signatures_and_in_the_policy() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: Some("carol-rsa"), message: message() });
    lab.refused(&mut machine, Reason::UnknownKey);
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    lab.change("ada", "trust/carol.kdl", &lab.principal_kdl("carol-rsa", "commit"));
    lab.refused(&mut machine, Reason::PolicyInvalid);
}

#[test]
fn an_ecdsa_key_signs_like_any_other() {
    let (lab, mut machine) = ready();
    let people = format!("{}{}", lab.people_kdl("commit", 1), lab.principal_kdl("dora-ecdsa", "commit"));
    lab.change("ada", "trust/people.kdl", &people.replace("\"ada\" \"bob\"", "\"ada\" \"bob\" \"dora-ecdsa\""));
    lab.accepted(&mut machine);
    lab.change("dora-ecdsa", "apps/a.yaml", "a: 3\n");
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn t72_a_key_for_another_use_approves_nothing() {
    let (lab, mut machine) = ready();
    lab.remove("apps/a.yaml");
    lab.change("ada", "trust/people.kdl", &lab.people_kdl("login", 1));
    lab.accepted(&mut machine);
    lab.change("bob", "apps/a.yaml", "a: 1\n");
    lab.refused(&mut machine, Reason::WrongUse);
}

#[test]
fn the_trailer_is_one_and_in_the_last_paragraph() {
    let (lab, mut machine) = ready();
    let twice = format!("x\n\n{0}\n{0}\n", target());
    lab.commit(&Make { signer: Some("ada"), message: twice });
    lab.refused(&mut machine, Reason::WrongTarget);
    let quoted = format!("x\n\n{}\n\nthat was a quotation\n", target());
    lab.commit_index(&Make { signer: Some("ada"), message: quoted }, &["--amend"]);
    lab.refused(&mut machine, Reason::WrongTarget);
    let among = format!("x\n\nbody\n\nReviewed-by: x\n{}\nOther: y\n", target());
    lab.commit_index(&Make { signer: Some("ada"), message: among }, &["--amend"]);
    assert!(lab.accepted(&mut machine).is_some());
}
