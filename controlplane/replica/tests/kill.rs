//! Kills a writing process with SIGKILL, over and over, on one directory: every acknowledged write must be there.
//!
//! Its own `main`, because the test starts itself again as the writer: `kill writer <dir> <first number>`.

use bytes::Bytes;
use controlplane_replica::{Alone, Folder, LEASES, Member, Options, Replica};
use controlplane_store::{Consistency, Op, RangeRequest, Store, Txn, prefix_end};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Times that the writer is killed.
const KILLS: usize = 5;

/// Acknowledgements after which it is killed; enough that a state commit without sync lies behind each.
const WRITES: usize = 150;

/// Writers at a time, so that synced commits are shared.
const WRITERS: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().expect("because a runtime can be made");
    match &arguments[1..] {
        [role, dir, first] if role == "writer" => {
            runtime.block_on(write(Path::new(dir), first.parse().expect("because the test passes a number")));
        }
        _ => {
            acknowledged_writes_survive_kills(&runtime);
            println!("acknowledged_writes_survive_kills ... ok");
        }
    }
}

async fn open(dir: &Path) -> Arc<Replica> {
    let files = Arc::new(Folder::create(dir).expect("because a directory can be made"));
    let options =
        Options { files, id: 1, member: Member::default(), bootstrap: true, peers: Arc::new(Alone), speaks: LEASES };
    Replica::open(options).await.expect("because the store recovers")
}

/// Writes numbered keys until it is killed; says each number and its revision once the store has acknowledged it.
async fn write(dir: &Path, first: usize) {
    let replica = open(dir).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let replica = Arc::clone(&replica);
        tasks.spawn(async move {
            for number in (first + writer..).step_by(WRITERS) {
                let key = Bytes::from(format!("/n/{number:08}"));
                let txn = Txn { then: vec![Op::Put(key, Bytes::from(vec![7; 500]))], ..Txn::default() };
                let answer = replica.txn(txn).await.expect("because the store runs");
                let mut out = std::io::stdout().lock();
                writeln!(out, "{number} {}", answer.revision).expect("because the test reads");
                out.flush().expect("because the test reads");
            }
        });
    }
    tasks.join_next().await;
}

fn acknowledged_writes_survive_kills(runtime: &tokio::runtime::Runtime) {
    let dir = tempfile::tempdir().expect("because a temporary directory can be made");
    let program = std::env::current_exe().expect("because this program runs");
    let mut acknowledged = BTreeMap::new();
    let mut first = 0;
    for _ in 0..KILLS {
        let mut child = Command::new(&program)
            .args(["writer", &dir.path().to_string_lossy(), &first.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("because this program can be started");
        let out = BufReader::new(child.stdout.take().expect("because it is piped"));
        for (count, line) in out.lines().enumerate() {
            let line = line.expect("because the writer writes text");
            let (number, revision) = line.split_once(' ').expect("because the writer writes two numbers");
            let number: usize = number.parse().expect("because it is a number");
            let revision: u64 = revision.parse().expect("because it is a number");
            assert_eq!(acknowledged.insert(number, revision), None, "a number is written once");
            first = first.max(number + WRITERS);
            if count == WRITES {
                child.kill().expect("because the writer runs");
            }
        }
        assert!(!child.wait().expect("because it was started").success(), "the writer ends by the kill only");
        // Numbers that were written but not acknowledged may be there; they are not used again.
        first += WRITERS * 2;
    }
    runtime.block_on(async {
        let replica = open(dir.path()).await;
        let request = RangeRequest::new("/n/", prefix_end(b"/n/"));
        let answer = replica.range(request, Consistency::Linearizable).await.expect("because the store runs");
        let found: BTreeMap<usize, u64> = answer
            .entries
            .iter()
            .map(|entry| {
                let name = std::str::from_utf8(&entry.key[3..]).expect("because the writer wrote text");
                (name.parse().expect("because it is a number"), entry.modified.0)
            })
            .collect();
        for (number, revision) in &acknowledged {
            assert_eq!(found.get(number), Some(revision), "write {number} was acknowledged at {revision}");
        }
        assert!(acknowledged.len() > KILLS * WRITES);
    });
}
