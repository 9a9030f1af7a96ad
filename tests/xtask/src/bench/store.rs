//! `cargo xtask bench store`: the store behind etcd's API beside etcd itself, in one run on one disk, in turns.
//!
//! ```text
//! etcd-facade or etcd, on processor 0 <--gRPC in the clear-- etcd-load, on processor 1
//! ```
//!
//! Both write to the same folder's disk, each acknowledged write being durable. A round starts each server once on an empty folder and does
//! every row; who begins changes with each round. A ratio is taken within its round, and their median is shown.

use crate::run::run;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How the store is measured.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Rounds, each with both servers.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each row.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Keys of 1 KiB that both are filled with to compare memory and restart; 0 leaves these rows out.
    #[arg(long, default_value_t = 100_000)]
    large: u64,
}

/// Where servers and figures lie.
const HOME: &str = ".cairn/bench/store";

/// How long a server may take until it takes connections.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How often a starting server is asked.
const START_PERIOD: Duration = Duration::from_millis(20);

/// Room for etcd's file, in bytes: its default refuses more than 2 GiB.
const ETCD_QUOTA: &str = "--quota-backend-bytes=8589934592";

/// Keys that reads and ranges find.
const KEYS: &str = "10000";

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Cairn,
    Etcd,
}

/// A row: what is done, and the targets of throughput (at least) and processor time (at most), both relative to etcd.
struct Row {
    name: &'static str,
    work: &'static [&'static str],
    throughput: Option<f64>,
    processor: Option<f64>,
}

const ROWS: [Row; 5] = [
    Row {
        name: "puts of 256 bytes, one after the other",
        work: &["put", "--clients", "1"],
        throughput: Some(1.0),
        processor: None,
    },
    Row {
        name: "puts of 256 bytes, 1,000 clients",
        work: &["put", "--clients", "1000"],
        throughput: Some(2.0),
        processor: Some(0.5),
    },
    Row {
        name: "linearizable reads, 1,000 clients",
        work: &["get", "--clients", "1000", "--keys", KEYS],
        throughput: Some(3.0),
        processor: Some(1.0 / 3.0),
    },
    Row {
        name: "ranges of 10,000 keys of 256 bytes",
        work: &["range", "--keys", KEYS],
        throughput: Some(5.0),
        processor: Some(0.2),
    },
    Row {
        name: "10,000 watchers, 10 each on 1,000 prefixes, 1,000 puts a second",
        work: &["watch", "--watchers", "10000", "--prefixes", "1000", "--rate", "1000"],
        throughput: None,
        processor: None,
    },
];

/// What `etcd-load` measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Measured {
    count: u64,
    seconds: f64,
    server_seconds: f64,
    median_us: f64,
    p99_us: f64,
    missed: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    /// Processor time of the server for each request, in microseconds.
    fn cost(&self) -> f64 {
        self.server_seconds / self.count as f64 * 1e6
    }
}

/// A server with much in it.
#[derive(Debug, Clone, Copy, Serialize)]
struct Large {
    resident_mib: f64,
    restart_seconds: f64,
}

/// One server in one round.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    kind: Kind,
    rows: Vec<Measured>,
    large: Option<Large>,
}

/// Where the programs are.
struct Programs {
    facade: PathBuf,
    load: PathBuf,
    etcd: PathBuf,
}

pub(crate) fn measure(store: &Store) -> Result<()> {
    let home = std::env::current_dir().context("finding this folder")?.join(HOME);
    std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    let programs = build(&home)?;
    let mut rounds = Vec::new();
    for round in 0..store.rounds {
        let order = if round % 2 == 0 { [Kind::Etcd, Kind::Cairn] } else { [Kind::Cairn, Kind::Etcd] };
        let mut turns = Vec::new();
        for kind in order {
            println!("round {} of {}: {kind:?}", round + 1, store.rounds);
            turns.push(turn(&programs, &home, kind, store).with_context(|| format!("{kind:?}"))?);
        }
        turns.sort_by_key(|turn| turn.kind != Kind::Cairn);
        rounds.push(turns);
    }
    report(&rounds);
    let file = home.join("store.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&rounds)?)?;
    println!("\nJSON: {}", file.display());
    Ok(())
}

/// Builds both servers and the load; etcd from the Go modules that tests/peers pins.
fn build(home: &Path) -> Result<Programs> {
    println!("building the servers");
    run("cargo", &["build", "--quiet", "--release", "--locked", "--package", "tests-etcd-facade"])?;
    let release = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/x86_64-unknown-linux-gnu/release");
    let etcd = home.join("etcd");
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&etcd)
        .arg("go.etcd.io/etcd/server/v3")
        .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../peers"))
        .status()
        .context("starting go; etcd is built with it")?;
    ensure!(built.success(), "etcd could not be built");
    Ok(Programs { facade: release.join("etcd-facade"), load: release.join("etcd-load"), etcd })
}

/// A server that runs; it ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Server {
    /// Starts one on processor 0, and waits until it takes connections and has a leader.
    fn start(programs: &Programs, kind: Kind, data: &Path) -> Result<Self> {
        let port = || anyhow::Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?);
        let (address, peers) = (port()?, port()?);
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
        match kind {
            Kind::Cairn => command.arg(&programs.facade).args(["--listen", &address.to_string()]),
            Kind::Etcd => {
                let (clients, peers) = (format!("http://{address}"), format!("http://{peers}"));
                command.arg(&programs.etcd).args([
                    "--log-level=error",
                    ETCD_QUOTA,
                    &format!("--listen-client-urls={clients}"),
                    &format!("--advertise-client-urls={clients}"),
                    &format!("--listen-peer-urls={peers}"),
                    &format!("--initial-advertise-peer-urls={peers}"),
                    &format!("--initial-cluster=default={peers}"),
                ])
            }
        };
        let option = if kind == Kind::Cairn { "--data" } else { "--data-dir" };
        let child = command.arg(option).arg(data).spawn().context("starting a server through taskset")?;
        let mut server = Server { child, address };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}");
            }
            ensure!(begun.elapsed() < START_LIMIT, "the server does not listen on {address}");
            std::thread::sleep(START_PERIOD);
        }
        Ok(server)
    }

    /// Keeps it busy from processor 1.
    fn load(&self, programs: &Programs, seconds: f64, work: &[&str]) -> Result<Measured> {
        let (server, process) = (format!("http://{}", self.address), self.child.id().to_string());
        let output = Command::new("taskset")
            .args(["--cpu-list", "1"])
            .arg(&programs.load)
            .args(["--server", &server, "--process", &process, "--seconds", &seconds.to_string()])
            .args(work)
            .stderr(Stdio::inherit())
            .output()
            .context("starting the load through taskset")?;
        ensure!(output.status.success(), "the load ended with {}", output.status);
        serde_json::from_slice(&output.stdout).context("reading what the load measured")
    }

    /// What is resident of it, in MiB.
    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS in /proc")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is a number")?;
        Ok(kib / 1024.0)
    }
}

fn turn(programs: &Programs, home: &Path, kind: Kind, store: &Store) -> Result<Turn> {
    let folder = tempfile::tempdir_in(home)?;
    let server = Server::start(programs, kind, &folder.path().join("data"))?;
    server.load(programs, store.seconds, &["fill", "--keys", KEYS])?;
    let mut rows = Vec::new();
    for row in &ROWS {
        rows.push(server.load(programs, store.seconds, row.work).with_context(|| row.name)?);
    }
    drop(server);
    let large = match store.large {
        0 => None,
        keys => Some(large(programs, home, kind, keys)?),
    };
    Ok(Turn { kind, rows, large })
}

/// Fills one, and starts it again.
fn large(programs: &Programs, home: &Path, kind: Kind, keys: u64) -> Result<Large> {
    let folder = tempfile::tempdir_in(home)?;
    let data = folder.path().join("data");
    let server = Server::start(programs, kind, &data)?;
    server.load(programs, 0.0, &["fill", "--keys", &keys.to_string(), "--bytes", "1024"])?;
    let resident_mib = server.resident_mib()?;
    // Killed, so that both have to recover.
    drop(server);
    let begun = Instant::now();
    let server = Server::start(programs, kind, &data)?;
    let one = ["get", "--clients", "1", "--keys", &keys.to_string()];
    let asked = Instant::now();
    let read = server.load(programs, 0.001, &one)?;
    // Without what the load's own start took.
    let started = asked.duration_since(begun).as_secs_f64();
    Ok(Large { resident_mib, restart_seconds: started + read.seconds })
}

fn report(rounds: &[Vec<Turn>]) {
    println!(
        "\n{:<66} {:>10} {:>10} {:>7} {:>7} {:>9} {:>9} {:>7} {:>7}",
        "", "Cairn /s", "etcd /s", "ratio", "target", "Cairn us", "etcd us", "ratio", "target"
    );
    for (index, row) in ROWS.iter().enumerate() {
        let of = |turn: usize, figure: fn(&Measured) -> f64| -> Vec<f64> {
            rounds.iter().map(|turns| figure(&turns[turn].rows[index])).collect()
        };
        let shown = |target: Option<f64>| target.map_or_else(String::new, |target| format!("{target:.2}"));
        let (rates, costs) =
            ((of(0, Measured::rate), of(1, Measured::rate)), (of(0, Measured::cost), of(1, Measured::cost)));
        println!(
            "{:<66} {:>10.0} {:>10.0} {:>7.2} {:>7} {:>9.1} {:>9.1} {:>7.2} {:>7}",
            row.name,
            median(&rates.0),
            median(&rates.1),
            ratio(&rates),
            shown(row.throughput),
            median(&costs.0),
            median(&costs.1),
            ratio(&costs),
            shown(row.processor),
        );
        let (late, missed) = ((of(0, |one| one.p99_us), of(1, |one| one.p99_us)), of(0, |one| one.missed as f64));
        println!(
            "{:<66} p99 {:.0} us and {:.0} us, ratio {:.2}; missed events: {:.0}",
            "",
            median(&late.0),
            median(&late.1),
            ratio(&late),
            missed.iter().sum::<f64>()
        );
    }
    let large = |turn: usize, figure: fn(&Large) -> f64| -> Vec<f64> {
        rounds.iter().filter_map(|turns| turns[turn].large.as_ref().map(figure)).collect()
    };
    for (name, figure, target) in [
        ("resident memory once filled, MiB", (|it: &Large| it.resident_mib) as fn(&Large) -> f64, 0.5),
        ("killed, and started again until it answers, seconds", |it| it.restart_seconds, 1.0 / 3.0),
    ] {
        let both = (large(0, figure), large(1, figure));
        if !both.0.is_empty() {
            let (ours, theirs) = (median(&both.0), median(&both.1));
            println!("{name:<66} {ours:>10.2} {theirs:>10.2} {:>7.2} {target:>7.2}", ratio(&both));
        }
    }
    println!(
        "us: processor time of the server for each request or event. One processor for the server, the other for its clients."
    );
}

fn ratio((ours, theirs): &(Vec<f64>, Vec<f64>)) -> f64 {
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}
