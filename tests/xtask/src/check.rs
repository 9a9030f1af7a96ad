//! `cargo xtask check`: what must hold before anything lands, cheapest first.

use crate::run::{run, run_with};
use crate::tidy;
use anyhow::{Context, Result};
use std::process::Command;

/// The version of cargo-deny that the project's deny.toml is written for.
const CARGO_DENY: &str = "0.20.2";

/// The version of mdBook that builds docs/.
const MDBOOK: &str = "0.5.4";

pub(crate) fn check() -> Result<()> {
    run("cargo", &["fmt", "--all", "--check"])?;
    tidy::tidy()?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"])?;
    run_with("cargo", &["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "--deny warnings")])?;
    run("cargo", &["deny", "--version"]).or_else(|_| install("cargo-deny", CARGO_DENY))?;
    run("cargo", &["deny", "--all-features", "check", "bans", "licenses", "sources"])?;
    advisories()?;
    run("mdbook", &["--version"]).or_else(|_| install("mdbook", MDBOOK))?;
    run("mdbook", &["build", "docs", "--dest-dir", "target/book"])
}

/// Checks known vulnerabilities where the advisory database can be reached; without a network that is said, not hidden.
fn advisories() -> Result<()> {
    let output = Command::new("cargo").args(["deny", "check", "advisories"]).output().context("starting cargo deny")?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("advisories: none");
    } else if words.contains("failed to fetch advisory database") {
        println!("advisories: NOT CHECKED, the advisory database cannot be reached from here");
    } else {
        anyhow::bail!("cargo deny found advisories:\n{words}");
    }
    Ok(())
}

/// Installs a tool once; cargo keeps it between runs.
fn install(tool: &str, version: &str) -> Result<()> {
    // Tools are programs of this computer: the product's static target is not for them.
    let host = ["install", "--quiet", "--locked", "--target-dir", "target/tools", "--version", version, tool];
    run("cargo", &host)
}
