//! Attacks on signatures, keys and counting.

use crate::lab::{Lab, Make, target};
use gitsync_verify::{ObjectFormat, RawCommit, Reason, SignedStatement, Statement, TrustState};
use tests_support::authenticator::{Authenticator, Holder, armour, string, to_sign};

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

/// The fields of an armoured signature: public key blob and signature blob.
fn parts(armour: &str) -> (Vec<u8>, Vec<u8>) {
    use base64::Engine;
    let text: String = armour.lines().filter(|line| !line.starts_with("-----")).collect();
    let blob = base64::engine::general_purpose::STANDARD.decode(text).expect("because ssh-keygen wrote it");
    let mut rest = &blob[10..];
    let mut field = || take(&mut rest);
    let (key, _namespace, _reserved, _hash, signature) = (field(), field(), field(), field(), field());
    (key, signature)
}

/// The next SSH wire string.
fn take(rest: &mut &[u8]) -> Vec<u8> {
    let (length, after) = rest.split_at(4);
    let length = u32::from_be_bytes(length.try_into().expect("because these are four bytes")) as usize;
    let (field, after) = after.split_at(length);
    *rest = after;
    field.to_vec()
}

/// Adds (or takes away from) a big-endian number of 32 bytes, without a carry out of it.
fn arithmetic(number: &[u8], other: &[u8; 32], subtract_from: bool) -> [u8; 32] {
    let (mut result, mut carry) = ([0_u8; 32], 0_i16);
    let mut padded = [0_u8; 32];
    let number = &number[number.len().saturating_sub(32)..];
    padded[32 - number.len()..].copy_from_slice(number);
    for at in (0..32).rev() {
        let (one, two) = (i16::from(padded[at]), i16::from(other[at]));
        let sum = if subtract_from { two - one + carry } else { one + two + carry };
        result[at] = sum.rem_euclid(256) as u8;
        carry = sum.div_euclid(256);
    }
    result
}

/// The order of P-256, big-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
    0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The order of the ed25519 group, big-endian.
const ED25519_ORDER: [u8; 32] = [
    0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0xde, 0xf9, 0xde, 0xa2, 0xf7, 0x9c, 0xd6, 0x58, 0x12,
    0x63, 0x1a, 0x5c, 0xf5, 0xd3, 0xed,
];

/// The armour with its ECDSA `s` replaced by `n - s`, which is as valid.
fn high_s_twin(original: &str) -> String {
    let (key, signature) = parts(original);
    let mut rest = signature.as_slice();
    let (kind, numbers) = (take(&mut rest), take(&mut rest));
    let mut numbers = numbers.as_slice();
    let (r, s) = (take(&mut numbers), take(&mut numbers));
    let twin = arithmetic(&s, &P256_ORDER, true);
    let first = twin.iter().position(|b| *b != 0).expect("because s is not zero");
    // A number whose first bit is set has a zero in front of it.
    let zero: &[u8] = if twin[first] & 0x80 == 0 { &[] } else { &[0] };
    let numbers = [string(&r), string(&[zero, &twin[first..]].concat())].concat();
    armour(&key, "git", &[string(&kind), string(&numbers)].concat())
}

/// dora signs with ECDSA; the commit with her signature and its twin, both over one tree.
fn with_dora() -> (Lab, TrustState, machined_ids::CommitId, machined_ids::CommitId) {
    let lab = Lab::new();
    let people = format!("{}{}", lab.people_kdl("commit", 1), lab.principal_kdl("dora-ecdsa", "commit"));
    lab.change("ada", "trust/people.kdl", &people.replace("\"ada\" \"bob\"", "\"ada\" \"bob\" \"dora-ecdsa\""));
    let machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    let original = lab.sign("dora-ecdsa", "git", &signed);
    with_armour(&lab, &signed, &original);
    let first = lab.head();
    with_armour(&lab, &signed, &high_s_twin(&original));
    let twin = lab.head();
    assert_ne!(first, twin);
    (lab, machine, first, twin)
}

#[test]
fn t61_a_high_s_twin_and_its_child_converge_in_either_order() {
    let (lab, machine, first, twin) = with_dora();
    for (seen, then) in [(&first, &twin), (&twin, &first)] {
        let mut machine = machine.clone();
        lab.git(&["reset", "-q", "--hard", seen.as_str()]);
        let step = lab.accepted(&mut machine).expect("because dora signed it").position().step;
        lab.git(&["reset", "-q", "--hard", then.as_str()]);
        lab.change("bob", "apps/a.yaml", "a: 2\n");
        lab.accepted(&mut machine);
        assert_eq!(machine.accepted().seq.0, 2);
        assert_eq!(machine.history()[1].step, step, "the twin is the same step");
    }
}

#[test]
fn t29_another_way_to_write_an_ed25519_signature_is_refused() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    let (key, signature) = parts(&lab.sign("ada", "git", &signed));
    let mut rest = signature.as_slice();
    let (kind, mut raw) = (take(&mut rest), take(&mut rest));
    // S + L: the same number to a verifier that reduces it.
    let mut s: Vec<u8> = raw[32..].iter().rev().copied().collect();
    s = arithmetic(&s, &ED25519_ORDER, false).to_vec();
    s.reverse();
    raw[32..].copy_from_slice(&s);
    with_armour(&lab, &signed, &armour(&key, "git", &[string(&kind), string(&raw)].concat()));
    lab.refused(&mut machine, Reason::BadSignature);
}

#[test]
fn t29_a_key_of_small_order_is_nobodys() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    // Under the neutral point, R neutral and S zero match every message.
    let mut neutral = [0_u8; 32];
    neutral[0] = 1;
    let key = [string(b"ssh-ed25519"), string(&neutral)].concat();
    let signature = [string(b"ssh-ed25519"), string(&[neutral, [0; 32]].concat())].concat();
    with_armour(&lab, &signed, &armour(&key, "git", &signature));
    lab.refused(&mut machine, Reason::BadSignature);
    // And no policy takes such a key, in none of its forms.
    lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    use base64::Engine;
    for last in [neutral[31], 0x80] {
        neutral[31] = last;
        let blob = [string(b"ssh-ed25519"), string(&neutral)].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(blob);
        let kdl = format!("principal \"weak\" {{ key \"ssh-ed25519 {text}\" {{ use \"commit\"; }}; }}\n");
        lab.change("ada", "trust/weak.kdl", &kdl);
        lab.refused(&mut machine, Reason::PolicyInvalid);
        lab.git(&["reset", "-q", "--hard", "HEAD~1"]);
    }
}

#[test]
fn t26_old_kinds_of_keys_are_refused_whatever_they_sign() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    // RSA by SHA-1 ("ssh-rsa" as the signature's own kind) and DSA; ssh-keygen makes neither any more.
    let (rsa, signature) = parts(&lab.sign("carol-rsa", "git", &signed));
    let mut rest = signature.as_slice();
    let (_kind, raw) = (take(&mut rest), take(&mut rest));
    let sha1 = [string(b"ssh-rsa"), string(&raw)].concat();
    let number = string(&[0x11; 20]);
    let dsa_key = [string(b"ssh-dss"), number.clone(), number.clone(), number.clone(), number].concat();
    let dsa = [string(b"ssh-dss"), string(&[0x11; 40])].concat();
    let short = [string(b"ssh-rsa"), string(&[1, 0, 1]), string(&[0x11; 64])].concat();
    let short_signature = [string(b"rsa-sha2-512"), string(&[0x11; 64])].concat();
    for (key, signature) in [(&rsa, &sha1), (&dsa_key, &dsa), (&short, &short_signature)] {
        with_armour(&lab, &signed, &armour(key, "git", signature));
        let refusal = lab.sync(&mut machine).expect("because the kind of key is not taken");
        assert!(matches!(refusal.reason, Reason::UnknownKey | Reason::BadSignature), "{refusal}");
        assert_eq!(machine.accepted().seq.0, 0);
    }
}

#[test]
fn t27_a_certificate_is_not_the_key_that_it_is_about() {
    let (lab, mut machine) = ready();
    lab.commit(&Make { signer: None, message: message() });
    let signed = payload(&lab);
    let (_, signature) = parts(&lab.sign("ada", "git", &signed));
    let certificate = lab.certificate("ada", "forge-ca");
    with_armour(&lab, &signed, &armour(&certificate, "git", &signature));
    lab.refused(&mut machine, Reason::BadSignature);
}

/// hana has a hardware key, and is of role dev.
fn with_hana() -> (Lab, TrustState, Authenticator) {
    let (lab, hana) = (Lab::new(), Authenticator::from_seed([7; 32]));
    let key = format!("principal \"hana\" {{ key \"{}\" {{ use \"commit\" \"statement\"; }}; }}\n", hana.public_key());
    let people = format!("{}{key}", lab.people_kdl("commit", 1)).replace("\"ada\" \"bob\"", "\"ada\" \"bob\" \"hana\"");
    lab.change("ada", "trust/people.kdl", &people);
    let machine = lab.machine();
    lab.write("apps/a.yaml", "a: 1\n");
    lab.commit(&Make { signer: None, message: message() });
    (lab, machine, hana)
}

#[test]
fn t23_a_hardware_key_signs_only_when_it_is_touched() {
    let (lab, mut machine, hana) = with_hana();
    let signed = payload(&lab);
    with_armour(&lab, &signed, &hana.sign(Holder::Absent, "git", &signed));
    lab.refused(&mut machine, Reason::NoTouch);
    // The flag is part of what is signed: it cannot be set afterwards.
    let (key, mut signature) = parts(&hana.sign(Holder::Absent, "git", &signed));
    let flags = signature.len() - 5;
    signature[flags] = 1;
    with_armour(&lab, &signed, &armour(&key, "git", &signature));
    lab.refused(&mut machine, Reason::BadSignature);
    with_armour(&lab, &signed, &hana.sign(Holder::Touched, "git", &signed));
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn t23_a_statement_takes_a_touch_as_well() {
    let (lab, mut machine, hana) = with_hana();
    let statement = Statement::Release(lab.release(&machine));
    let body = statement.body();
    let by = |holder| {
        let armour = hana.sign(holder, statement.namespace(), body.as_bytes());
        SignedStatement::join(&body, &armour).expect("because the signature is valid")
    };
    lab.statements.replace(vec![by(Holder::Absent)]);
    lab.refused(&mut machine, Reason::NoTouch);
    lab.statements.replace(vec![by(Holder::Touched)]);
    assert!(lab.accepted(&mut machine).is_some());
}

#[test]
fn the_tests_own_armour_is_as_ssh_keygen_writes_it() {
    let (lab, _) = ready();
    let original = lab.sign("ada", "git", b"x");
    let (key, signature) = parts(&original);
    assert_eq!(armour(&key, "git", &signature), original);
    assert_eq!(&to_sign("git", b"x")[..6], b"SSHSIG");
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
