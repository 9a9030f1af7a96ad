//! `etcd-load`: a lean client that keeps a server of etcd's API busy and measures it, for `cargo xtask bench store`.
//!
//! ```text
//! a row of work + the server's process -> requests, seconds, the server's processor time, latencies -> one line of JSON
//! ```
//!
//! It speaks to etcd and to the facade in the same way, over connections of its own, in the clear. What fails ends it: a figure of requests
//! of which some failed would be none.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests_etcd_facade::pb;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Keeps a server of etcd's API busy and prints what that took
#[derive(Debug, Parser)]
struct Arguments {
    /// The server, as http://127.0.0.1:2379
    #[arg(long)]
    server: String,
    /// Its process, whose processor time is measured
    #[arg(long)]
    process: u32,
    /// For how long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// TCP connections, shared by all clients
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Writes keys once, as many at a time as there are clients; stops when all are written
    Fill {
        #[arg(long)]
        keys: u64,
        #[arg(long, default_value_t = 256)]
        bytes: usize,
        #[arg(long, default_value_t = 256)]
        clients: usize,
    },
    /// Each client puts one value after the other
    Put {
        #[arg(long)]
        clients: usize,
        #[arg(long, default_value_t = 256)]
        bytes: usize,
    },
    /// Each client reads one key after the other, linearizable
    Get {
        #[arg(long)]
        clients: usize,
        /// How many keys an earlier `fill` wrote
        #[arg(long)]
        keys: u64,
    },
    /// One client reads all keys that an earlier `fill` wrote, again and again
    Range {
        #[arg(long)]
        keys: u64,
    },
    /// Watchers on prefixes that are written to
    Watch {
        #[arg(long)]
        watchers: usize,
        /// Prefixes; each is watched by as many
        #[arg(long)]
        prefixes: usize,
        /// Writes a second, over all prefixes in turn
        #[arg(long)]
        rate: u32,
    },
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    /// Requests, or events that arrived.
    count: u64,
    seconds: f64,
    /// Processor time of the server meanwhile, in seconds.
    server_seconds: f64,
    median_us: f64,
    p99_us: f64,
    /// Events that did not arrive.
    missed: u64,
}

/// How long the last events may take to arrive.
const LAST_EVENTS: Duration = Duration::from_secs(30);

/// Largest answer that is read: a range of all keys.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Where filled keys lie.
const FILLED: &str = "/filled/";

// One thread: it is given one processor, and the server the others.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let endpoint = Endpoint::new(arguments.server.clone())?.tcp_nodelay(true);
    let mut channels = Vec::new();
    for _ in 0..arguments.connections.max(1) {
        channels.push(endpoint.connect().await.with_context(|| format!("connecting to {}", arguments.server))?);
    }
    let load = Load { channels, time: Duration::from_secs_f64(arguments.seconds), process: arguments.process };
    let measured = match arguments.work {
        Work::Fill { keys, bytes, clients } => load.fill(keys, bytes, clients).await?,
        Work::Put { clients, bytes } => load.put(clients, bytes).await?,
        Work::Get { clients, keys } => load.get(clients, keys).await?,
        Work::Range { keys } => load.range(keys).await?,
        Work::Watch { watchers, prefixes, rate } => load.watch(watchers, prefixes, rate).await?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

struct Load {
    channels: Vec<Channel>,
    time: Duration,
    process: u32,
}

impl Load {
    fn channel(&self, client: usize) -> Channel {
        self.channels[client % self.channels.len()].clone()
    }

    fn kv(&self, client: usize) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel(client)).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    async fn put(&self, clients: usize, bytes: usize) -> Result<Measured> {
        let value = Bytes::from(vec![0x61; bytes]);
        let clients = (0..clients).map(|client| {
            let (mut kv, value) = (self.kv(client), value.clone());
            async move |number: u64| {
                let key = Bytes::from(format!("/put/{client:04}/{:08}", number % 1000));
                let request = pb::PutRequest { key, value: value.clone(), ..Default::default() };
                kv.put(request).await.map(drop).context("a put")
            }
        });
        self.closed_loops(clients, None).await
    }

    async fn fill(&self, keys: u64, bytes: usize, clients: usize) -> Result<Measured> {
        let (value, next) = (Bytes::from(vec![0x61; bytes]), Arc::new(AtomicU64::new(0)));
        let loops = (0..clients).map(|client| {
            let (mut kv, value, next) = (self.kv(client), value.clone(), Arc::clone(&next));
            async move |_number: u64| {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= keys {
                    return Ok(());
                }
                let request = pb::PutRequest { key: filled(key), value: value.clone(), ..Default::default() };
                kv.put(request).await.map(drop).context("a put")
            }
        });
        self.closed_loops(loops, Some(keys.div_ceil(clients as u64))).await
    }

    async fn get(&self, clients: usize, keys: u64) -> Result<Measured> {
        let clients = (0..clients).map(|client| {
            let mut kv = self.kv(client);
            async move |number: u64| {
                // A stride that meets all keys.
                let key = filled((client as u64 * 7919 + number * 104_729) % keys);
                let answer = kv.range(pb::RangeRequest { key, ..Default::default() }).await.context("a read")?;
                if answer.get_ref().kvs.len() == 1 { Ok(()) } else { bail!("a key is missing") }
            }
        });
        self.closed_loops(clients, None).await
    }

    async fn range(&self, keys: u64) -> Result<Measured> {
        let clients = [self.kv(0)].into_iter().map(|mut kv| {
            async move |_number: u64| {
                let request = pb::RangeRequest {
                    key: Bytes::from_static(FILLED.as_bytes()),
                    range_end: Bytes::from_static(b"/filled0"),
                    ..Default::default()
                };
                let answer = kv.range(request).await.context("a range")?;
                let found = answer.get_ref().kvs.len() as u64;
                if found == keys { Ok(()) } else { bail!("{found} of {keys} keys are there") }
            }
        });
        self.closed_loops(clients, None).await
    }

    /// Runs clients, each of which asks again as soon as it was answered, until the time is over or each asked so often.
    async fn closed_loops<Ask>(&self, clients: impl Iterator<Item = Ask>, times: Option<u64>) -> Result<Measured>
    where
        Ask: AsyncFnMut(u64) -> Result<()> + 'static,
    {
        let (begun, before) = (Instant::now(), processor_time(self.process)?);
        let end = begun + self.time;
        let local = tokio::task::LocalSet::new();
        let mut running = JoinSet::new();
        for mut ask in clients {
            running.spawn_local_on(
                async move {
                    let mut latencies = Vec::new();
                    for number in 0..times.unwrap_or(u64::MAX) {
                        let asked = Instant::now();
                        if times.is_none() && asked >= end {
                            break;
                        }
                        ask(number).await?;
                        latencies.push(asked.elapsed());
                    }
                    anyhow::Ok(latencies)
                },
                &local,
            );
        }
        let mut latencies = Vec::new();
        local
            .run_until(async {
                while let Some(done) = running.join_next().await {
                    latencies.extend(done??);
                }
                anyhow::Ok(())
            })
            .await?;
        self.measured(begun.elapsed(), before, latencies, 0)
    }

    async fn watch(&self, watchers: usize, prefixes: usize, rate: u32) -> Result<Measured> {
        let began = Instant::now();
        let mut streams = JoinSet::new();
        let writes = (f64::from(rate) * self.time.as_secs_f64()) as u64;
        let ready = Arc::new(tokio::sync::Semaphore::new(0));
        for (number, channel) in self.channels.iter().enumerate() {
            let own: Vec<usize> = (0..watchers).filter(|watcher| watcher % self.channels.len() == number).collect();
            let expected: u64 = own.iter().map(|watcher| writes_to(watcher % prefixes, prefixes, writes)).sum();
            let watching = Watching { channel: channel.clone(), own, prefixes, expected, began };
            streams.spawn(watching.run(Arc::clone(&ready)));
        }
        let all = u32::try_from(self.channels.len()).context("connections are few")?;
        let _all_watch = ready.acquire_many(all).await.context("the watchers are there")?;
        let (begun, before) = (Instant::now(), processor_time(self.process)?);
        self.write_at(rate, writes, prefixes, began).await?;
        let mut latencies = Vec::new();
        while let Some(done) = streams.join_next().await {
            latencies.extend(done??);
        }
        let expected: u64 = (0..watchers).map(|watcher| writes_to(watcher % prefixes, prefixes, writes)).sum();
        let missed = expected - latencies.len() as u64;
        self.measured(begun.elapsed(), before, latencies, missed)
    }

    /// Puts at an even pace, whether or not the ones before were answered; each value says when it was sent.
    async fn write_at(&self, rate: u32, writes: u64, prefixes: usize, began: Instant) -> Result<()> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut sent = JoinSet::new();
        for number in 0..writes {
            pace.tick().await;
            let mut kv = self.kv(usize::try_from(number).context("writes are few")?);
            let key = Bytes::from(format!("{}key", prefix(number as usize % prefixes)));
            sent.spawn(async move {
                let value = Bytes::from(began.elapsed().as_nanos().to_string());
                kv.put(pb::PutRequest { key, value, ..Default::default() }).await
            });
        }
        while let Some(done) = sent.join_next().await {
            done?.context("a put")?;
        }
        Ok(())
    }

    fn measured(&self, time: Duration, before: f64, mut latencies: Vec<Duration>, missed: u64) -> Result<Measured> {
        let server_seconds = processor_time(self.process)? - before;
        latencies.sort_unstable();
        let at = |part: f64| {
            let index = ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
        };
        let (median_us, p99_us) = (at(0.5), at(0.99));
        let count = latencies.len() as u64;
        Ok(Measured { count, seconds: time.as_secs_f64(), server_seconds, median_us, p99_us, missed })
    }
}

/// The watchers of one connection.
struct Watching {
    channel: Channel,
    own: Vec<usize>,
    prefixes: usize,
    expected: u64,
    began: Instant,
}

impl Watching {
    /// Watches until all events are there, or none has come for long.
    async fn run(self, ready: Arc<tokio::sync::Semaphore>) -> Result<Vec<Duration>> {
        let Watching { channel, own, prefixes, expected, began } = self;
        let requests: Vec<pb::WatchRequest> = own.iter().map(|watcher| create(watcher % prefixes)).collect();
        // The stream of requests stays open: its end would be the end of the watches.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
        let mut client = pb::watch_client::WatchClient::new(channel);
        let mut answers = client.watch(requests).await.context("a watch")?.into_inner();
        let (mut created, mut latencies) = (0, Vec::new());
        while created < own.len() || (latencies.len() as u64) < expected {
            let answer = match tokio::time::timeout(LAST_EVENTS, answers.message()).await {
                Ok(answer) => answer.context("a watch")?.context("the server ended a watch")?,
                Err(_late) if created == own.len() => return Ok(latencies),
                Err(_late) => bail!("{created} of {} watches were made", own.len()),
            };
            if answer.created {
                created += 1;
                if created == own.len() {
                    ready.add_permits(1);
                }
            }
            for event in answer.events {
                let kv = event.kv.context("an event has a key")?;
                let sent: u64 = std::str::from_utf8(&kv.value)?.parse().context("a value says when it was sent")?;
                latencies.push(began.elapsed().saturating_sub(Duration::from_nanos(sent)));
            }
        }
        Ok(latencies)
    }
}

fn create(number: usize) -> pb::WatchRequest {
    let (key, mut end) = (prefix(number), prefix(number).into_bytes());
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let create = pb::WatchCreateRequest { key: Bytes::from(key), range_end: Bytes::from(end), ..Default::default() };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

fn prefix(number: usize) -> String {
    format!("/watched/{number:06}/")
}

/// How many of the writes go to a prefix.
fn writes_to(prefix: usize, prefixes: usize, writes: u64) -> u64 {
    let (all, prefix) = (prefixes as u64, prefix as u64);
    writes / all + u64::from(prefix < writes % all)
}

fn filled(key: u64) -> Bytes {
    Bytes::from(format!("{FILLED}{key:08}"))
}

/// Processor time of a process, in seconds: proc(5), fields 14 and 15 of stat, in hundredths.
fn processor_time(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the server is gone")?;
    let (_, fields) = stat.rsplit_once(')').context("reading /proc")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut hundredths = || fields.next().and_then(|field| field.parse::<f64>().ok()).context("reading /proc");
    Ok((hundredths()? + hundredths()?) / 100.0)
}
