//! Statements, marks, introductions and what a machine keeps of its trust.

use gitsync_verify::mark::SignedMark;
use gitsync_verify::statement::Statement;
use gitsync_verify::{Introduction, SignedStatement, TrustState};
use std::sync::LazyLock;
use tests_support::authenticator::PlainKey;

/// 64 hex digits: a digest.
static HEX: LazyLock<String> = LazyLock::new(|| "0123456789abcdef".repeat(4));

/// What was ever signed here.
static SIGNED: LazyLock<Vec<SignedStatement>> = LazyLock::new(|| {
    let hex = HEX.as_str();
    let bodies = [
        format!("{}seq 1\nparent {hex}\nstep {hex}\npolicy {hex}\nnot-after never\nintent release\n", head()),
        format!("{}seq 1\nstep {hex}\nissued 2026-01-01T00:00:00Z\nexpires 2026-01-02T00:00:00Z\n", head()),
    ];
    bodies.iter().map(sign).collect()
});

fn head() -> String {
    format!("cluster {}\nref refs/heads/main\nepoch 0\n", "01".repeat(16))
}

fn sign(body: &String) -> SignedStatement {
    let statement = Statement::from_body(body).expect("because it has the form");
    let armour = PlainKey::from_seed([1; 32]).sign(statement.namespace(), body.as_bytes());
    SignedStatement::join(body, &armour).expect("because it was just signed")
}

pub(crate) fn statement_seeds() -> Vec<Vec<u8>> {
    let (hex, commit) = (HEX.as_str(), &HEX[..40]);
    let mark = format!(
        "{}seq 1\nparent {hex}\nstep {hex}\ncommit {commit}\nmachine SHA256:x\nkey AA==\nsignature AA==\n",
        head()
    );
    let signed = SIGNED.iter().map(|one| one.text().as_bytes().to_vec());
    let trailer = SIGNED[0].to_trailer().into_bytes();
    signed.chain([mark.into_bytes(), trailer]).collect()
}

pub(crate) fn statements(bytes: &[u8]) {
    let read = [
        SignedStatement::parse(bytes).ok(),
        std::str::from_utf8(bytes).ok().and_then(|text| SignedStatement::from_trailer(text).ok()),
    ];
    for read in read.into_iter().flatten() {
        assert!(SIGNED.iter().any(|one| one.statement() == read.statement()), "only what was signed is read");
    }
    assert!(SignedMark::parse(bytes).is_err(), "no machine signed one");
    if let Some(Ok(statement)) = std::str::from_utf8(bytes).ok().map(Statement::from_body) {
        assert_eq!(statement.body().as_bytes(), bytes, "a statement has one text");
    }
}

pub(crate) fn state_seeds() -> Vec<Vec<u8>> {
    let (hex, commit) = (HEX.as_str(), &HEX[..40]);
    let introduction = format!(
        "{{\"cluster\":\"{}\",\"ref\":\"refs/heads/main\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\",\"tree\":\"{hex}\",\
         \"policy\":\"{hex}\",\"anchor\":{{\"epoch\":1,\"seq\":9,\"step\":\"{hex}\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\"}}}}",
        &hex[..32]
    );
    let position = format!(
        "{{\"seq\":9,\"step\":\"{hex}\",\"commit\":\"{commit}\",\"commitSha256\":\"{hex}\",\"tree\":\"{hex}\",\"policy\":\"{hex}\",\
         \"signer\":null,\"key\":null,\"subject\":\"x\"}}"
    );
    let state = format!(
        "{{\"version\":2,\"introduction\":{introduction},\"epoch\":1,\"history\":[{position}],\"applied\":null,\"generation\":3,\
         \"healthy\":{{\"3\":\"{hex}\"}},\"trust\":{{\"clockFloor\":\"2026-01-01T00:00:00Z\",\"floors\":{{\"image\":1,\"seq\":2}}}}}}"
    );
    vec![introduction.into_bytes(), state.into_bytes()]
}

pub(crate) fn states(bytes: &[u8]) {
    if let Ok(read) = Introduction::from_json(bytes) {
        assert_eq!(Introduction::from_json(read.to_json().as_bytes()), Ok(read));
    }
    if let Ok(read) = TrustState::from_json(bytes) {
        assert_eq!(TrustState::from_json(&read.to_json()), Ok(read));
    }
}
