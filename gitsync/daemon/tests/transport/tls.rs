//! An interceptor on a TLS line, with a certificate that this computer's roots trust: it can withhold and no more.
//!
//! The fetch child reads the roots of the computer, so the test puts an authority of its own among them: in a mount namespace of its own,
//! where this program is started again. Only root may make one; for others it says so.

use crate::lab::{Lab, Stopped, ref_at, run};
use gitsync_fetch::FetchError;
use gitsync_verify::Reason;
use std::process::Command;
use tests_support::authority::Authority;
use tests_support::hostile::{Attack, HostileServer};

/// What the fetch child reads as roots, on every Debian.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Says, in the namespace, where this file of roots is; outside, that nothing was set up yet.
const INSIDE: &str = "CAIRN_TEST_ROOTS";

#[test]
fn t43_an_interceptor_whose_certificate_is_trusted_can_withhold_and_no_more() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        return runtime.expect("because threads can be made").block_on(intercepted());
    }
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("NOT RUN: only root can give this test roots of its own");
        return;
    }
    let empty = tempfile::NamedTempFile::new().expect("because /tmp can be written");
    let own = std::env::current_exe().expect("because this program lies somewhere");
    let name = "tls::t43_an_interceptor_whose_certificate_is_trusted_can_withhold_and_no_more";
    let script = format!("mount --bind \"$1\" {ROOTS} && exec \"$2\" --exact {name} --nocapture");
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, "sh"])
        .args([empty.path(), &own])
        .env(INSIDE, empty.path())
        .status();
    assert!(status.expect("because util-linux is everywhere").success(), "it failed in its namespace, see above");
}

/// The roots of this namespace from now on.
fn trust(authority: &Authority) {
    std::fs::write(ROOTS, authority.certificate()).expect("because the test's own file is mounted there");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(ROOTS, readable).expect("because it is the test's own");
}

async fn intercepted() {
    let mut lab = Lab::new().await;
    let authority = Authority::new().expect("because the system has randomness");
    let tls = || authority.server().expect("because the certificate can be made");
    let honest = HostileServer::start_tls(&lab.served(), Attack::None, tls()).await.expect("because loopback is there");
    let good = lab.commit(Some("ada"), "apps/b.yaml", "b: 1\n");

    // A certificate that nobody trusts: not a byte of a request is sent.
    let stopped = lab.look_at(&honest.url()).await.expect_err("because nobody trusts it");
    assert!(matches!(stopped, Stopped::Fetch(FetchError::Unreachable(_))), "{stopped:?}");
    assert_eq!(honest.requests(), Vec::<String>::new());

    trust(&authority);
    let before = lab.accepted();
    let interceptor = HostileServer::start_tls(&lab.served(), ref_at(before.as_str()), tls())
        .await
        .expect("because loopback is there");
    lab.takes_from(&interceptor.url()).await;
    assert_eq!(lab.accepted(), before, "it withholds what is new");

    lab.git(&["checkout", "-q", "-b", "lie"]);
    let unsigned = lab.commit(None, "apps/lie.yaml", "l: 1\n");
    lab.git(&["reset", "-q", "--hard", good.as_str()]);
    let stranger = lab.commit(Some("mallory"), "apps/lie.yaml", "l: 2\n");
    for (lie, reason) in [(unsigned, Reason::UnderThreshold), (stranger, Reason::UnknownKey)] {
        interceptor.attack(ref_at(lie.as_str()));
        let stopped = lab.look_at(&interceptor.url()).await.expect_err("because nobody who may has signed it");
        assert_eq!(stopped.reason(), Some(reason), "{stopped:?}");
    }
    interceptor.attack(Attack::Redirect(format!("{}/info/refs?service=git-upload-pack", honest.url())));
    let asked = honest.requests().len();
    let stopped = lab.look_at(&interceptor.url()).await.expect_err("because redirects are not followed");
    assert!(matches!(stopped, Stopped::Fetch(FetchError::Unreachable(_))), "{stopped:?}");
    assert_eq!(honest.requests().len(), asked, "nobody else was asked");

    run(&lab.served(), "git", &["update-ref", crate::lab::REF, good.as_str()]);
    lab.takes_from(&honest.url()).await;
    assert_eq!(lab.accepted(), good, "what was lied about is forgotten once the line is honest");
}
