//! `cargo xtask fuzz`: libFuzzer with coverage feedback over every reader of bytes from outside (`tests/readers`), bounded in time and memory.
//!
//! It builds `tests/fuzz` with the stable toolchain: coverage by LLVM's pass, AddressSanitizer by the one unstable flag that this command
//! allows itself. Corpus, logs and what was found lie in `target/fuzz/`; a corpus grows from run to run.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests_readers::TARGETS;

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Only this reader; all of them otherwise, one after the other.
    #[arg(long)]
    target: Option<String>,
    /// Seconds for each reader.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Where libFuzzer's choices follow from; with an empty corpus the same seed tries the same inputs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seed: u32,
    /// Feed this file to the reader once, and do not fuzz.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// Where everything of it lies.
const HOME: &str = "target/fuzz";

/// Coverage as libFuzzer wants it (the pass and its options are those of cargo-fuzz), and AddressSanitizer: gix and aws-lc are not all safe
/// code. `--cfg fuzzing` is left out, because some crates skip checks under it.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
];

/// Memory of a reader in MiB, sanitizer included; the fetch child's whole address space is as large.
const MEMORY_MIB: u32 = 2048;

/// Seconds for one input: half of the fetch child's processor time, although instrumentation makes everything slower.
const INPUT_SECONDS: u32 = 30;

/// Bytes of an input: above every statement, far above what a reader branches on.
const INPUT_BYTES: u32 = 64 << 10;

pub(crate) fn fuzz(fuzz: &Fuzz) -> Result<()> {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    let wanted = match &fuzz.target {
        Some(name) => vec![
            *names
                .iter()
                .find(|known| *known == name)
                .with_context(|| format!("there is no reader {name:?} to fuzz; there are {}", names.join(", ")))?,
        ],
        None => names,
    };
    let program = build()?;
    if let Some(input) = &fuzz.input {
        return replay(&program, wanted[0], input);
    }
    println!("\n{:<12}{:>12}{:>10}{:>10}{:>9}   found", "reader", "executions", "per s", "coverage", "corpus");
    let mut broken = Vec::new();
    for name in wanted {
        let run = run(&program, name, fuzz)?;
        println!(
            "{name:<12}{:>12}{:>10}{:>10}{:>9}   {}",
            run.executions,
            run.executions / u64::from(fuzz.seconds),
            run.coverage,
            run.corpus,
            run.found.as_ref().map_or("nothing", |_| "A FAULT")
        );
        broken.extend(run.found.map(|input| (name, input)));
    }
    for (name, input) in &broken {
        let log = log(name);
        println!("\n{name}: see the end of {}; to feed it again:", log.display());
        println!("    cargo xtask fuzz --target {name} --input {}", input.display());
    }
    ensure!(broken.is_empty(), "{} of the readers broke", broken.len());
    Ok(())
}

/// Builds the one program of all readers, with the versions of the workspace.
fn build() -> Result<PathBuf> {
    println!("building the readers with coverage (some minutes the first time)");
    let manifest = "tests/fuzz/Cargo.toml";
    std::fs::copy("Cargo.lock", "tests/fuzz/Cargo.lock").context("giving tests/fuzz the workspace's lock file")?;
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--manifest-path", manifest, "--target-dir", HOME])
        .env("RUSTFLAGS", FLAGS.join(" "))
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "the readers were not built; libFuzzer needs a C++ compiler: apt-get install g++");
    let program = Path::new(HOME).join("x86_64-unknown-linux-gnu/release/tests-fuzz");
    program.canonicalize().with_context(|| format!("looking for {}", program.display()))
}

/// What fuzzing one reader came to.
struct Run {
    executions: u64,
    coverage: u64,
    corpus: u64,
    found: Option<PathBuf>,
}

fn log(name: &str) -> PathBuf {
    Path::new(HOME).join(format!("{name}.log"))
}

/// The program, about to read as `name`. What it writes for a moment goes to a folder of its own.
fn command(program: &Path, name: &str) -> Result<Command> {
    let temporary = Path::new(HOME).join("tmp").join(name);
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).with_context(|| format!("emptying {}", temporary.display()))?;
    }
    std::fs::create_dir_all(&temporary).with_context(|| format!("making {}", temporary.display()))?;
    let mut command = Command::new(program);
    // Leaks are no matter of safe code, and looking for them needs ptrace.
    command.env("ASAN_OPTIONS", "detect_leaks=0:quarantine_size_mb=32").env("CAIRN_FUZZ_TARGET", name);
    command.env("TMPDIR", temporary.canonicalize()?);
    command.args([format!("-rss_limit_mb={MEMORY_MIB}"), format!("-timeout={INPUT_SECONDS}")]);
    Ok(command)
}

fn run(program: &Path, name: &str, fuzz: &Fuzz) -> Result<Run> {
    let corpus = Path::new(HOME).join("corpus").join(name);
    let found = Path::new(HOME).join("found").join(name);
    std::fs::create_dir_all(&corpus).context("making the folder of the corpus")?;
    std::fs::create_dir_all(&found).context("making the folder of what is found")?;
    let before = files(&found)?;
    let log = log(name);
    let file = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let status = command(program, name)?
        .env("CAIRN_FUZZ_SEEDS", &corpus)
        .args([format!("-max_total_time={}", fuzz.seconds), format!("-seed={}", fuzz.seed)])
        .args([format!("-max_len={INPUT_BYTES}"), format!("-artifact_prefix={}/", found.display())])
        .args(["-print_final_stats=1", "-reload=0"])
        .arg(&corpus)
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .context("starting the fuzzer")?;
    let said = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let new = files(&found)?.into_iter().find(|input| !before.contains(input));
    if new.is_none() && !status.success() {
        bail!("the fuzzer of {name} ended with {status} and left no input; see {}", log.display());
    }
    let (executions, coverage) = figures(&said);
    Ok(Run { executions, coverage, corpus: files(&corpus)?.len() as u64, found: new })
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Executions and covered edges, as libFuzzer says them: `stat::number_of_executed_units: 7` and `#7 DONE cov: 9 ft: 10 ...`.
fn figures(said: &str) -> (u64, u64) {
    let after = |line: &str, word: &str| {
        let rest = line.split_once(word)?.1.trim_start();
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    let last = |word: &str| said.lines().rev().find_map(|line| after(line, word));
    (last("stat::number_of_executed_units:").unwrap_or_default(), last(" cov: ").unwrap_or_default())
}

fn replay(program: &Path, name: &str, input: &Path) -> Result<()> {
    let status = command(program, name)?.arg(input).status().context("starting the fuzzer")?;
    ensure!(status.success(), "{name} broke on {}", input.display());
    println!("{name} takes {} without a fault", input.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_end() {
        let said = "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#90\tDONE   cov: 75 ft: 80 corp: 9/9b\nDone 90 runs in 1 second(s)\n\
                    stat::number_of_executed_units: 90\nstat::average_exec_per_sec:     45\n";
        assert_eq!(figures(said), (90, 75));
        assert_eq!(figures("nothing of that kind"), (0, 0));
    }
}
