//! Many tasks that each wait for their insert to be durable: where commits can be shared, they must be.

use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task;

use super::writes::{Singles, check_pairs};
use crate::engine::{Durable, Engine, Pair};
use crate::measure::{Latencies, rate};
use crate::workload::{self, Ids};

/// Tasks that insert.
const WRITERS: u64 = 64;

/// Threads they run on.
const THREADS: usize = 2;

/// How long each way of inserting is measured.
const TIME: Duration = Duration::from_secs(3);

/// One durable insert, somehow.
type Insert = Arc<dyn Fn(Pair) -> Durable + Send + Sync>;

/// The best of the ways in which the engine can serve concurrent writers: its own queue if it has one; otherwise each
/// insert a commit of its own on a blocking thread, or a queue in front of one thread that commits what has gathered.
pub(crate) fn best(engine: &Arc<dyn Engine>) -> Result<Singles> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_time().build()?;
    if runtime.block_on(async { engine.insert_queued(pair(0, 0, 0)) }).is_some() {
        return measure(&runtime, engine, own_queue(Arc::clone(engine)), 0);
    }
    let direct = measure(&runtime, engine, direct(Arc::clone(engine)), 1)?;
    let queued = {
        let committer = Committer::start(Arc::clone(engine));
        let singles = measure(&runtime, engine, committer.insert(), 2)?;
        committer.stop()?;
        singles
    };
    Ok(if direct.rate > queued.rate { direct } else { queued })
}

/// The pair of an insert; no two ways, writers or inserts share a key.
fn pair(way: u64, writer: u64, number: u64) -> Pair {
    (workload::id(Ids::Concurrent, way << 60 | writer << 40 | number), workload::id(Ids::Value, number))
}

fn measure(runtime: &Runtime, engine: &Arc<dyn Engine>, insert: Insert, way: u64) -> Result<Singles> {
    let start = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let insert = Arc::clone(&insert);
            runtime.spawn(async move {
                let mut latencies = Latencies::default();
                while start.elapsed() < TIME {
                    let begin = Instant::now();
                    insert(pair(way, writer, latencies.len() as u64)).await?;
                    latencies.add(begin.elapsed());
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let done = runtime.block_on(async {
        let mut done = Vec::new();
        for writer in writers {
            done.push(writer.await??);
        }
        anyhow::Ok(done)
    })?;
    let time = start.elapsed();

    let mut latencies = Latencies::default();
    for (writer, of_writer) in (0..).zip(done) {
        check_pairs(&**engine, (0..of_writer.len() as u64).map(|number| pair(way, writer, number)))?;
        latencies.append(of_writer);
    }
    Ok(Singles { rate: rate(latencies.len(), time), latencies })
}

fn own_queue(engine: Arc<dyn Engine>) -> Insert {
    Arc::new(move |pair| match engine.insert_queued(pair) {
        Some(durable) => durable,
        None => Box::pin(async { Err(anyhow!("the engine has a queue only sometimes")) }),
    })
}

fn direct(engine: Arc<dyn Engine>) -> Insert {
    Arc::new(move |pair| {
        let engine = Arc::clone(&engine);
        let insert = task::spawn_blocking(move || engine.insert_batch(&[pair]));
        Box::pin(async move { insert.await? }) as Pin<Box<_>>
    })
}

/// A pair, and where to say that it is durable.
type Request = (Pair, oneshot::Sender<()>);

/// The queue and its thread.
struct Committer {
    requests: mpsc::UnboundedSender<Request>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Committer {
    fn start(engine: Arc<dyn Engine>) -> Self {
        let (requests, mut incoming) = mpsc::unbounded_channel::<Request>();
        let thread = thread::spawn(move || {
            while let Some(first) = incoming.blocking_recv() {
                let (mut pairs, mut waiting) = (vec![first.0], vec![first.1]);
                while let Ok((pair, durable)) = incoming.try_recv() {
                    pairs.push(pair);
                    waiting.push(durable);
                }
                engine.insert_batch(&pairs)?;
                for durable in waiting {
                    // A writer that no longer waits needs no answer.
                    let _ = durable.send(());
                }
            }
            Ok(())
        });
        Self { requests, thread }
    }

    fn insert(&self) -> Insert {
        let requests = self.requests.clone();
        Arc::new(move |pair| {
            let (durable, wait) = oneshot::channel();
            let sent = requests.send((pair, durable));
            Box::pin(async move {
                sent.map_err(|_| anyhow!("the committing thread ended"))?;
                wait.await.context("the committing thread failed")
            })
        })
    }

    fn stop(self) -> Result<()> {
        drop(self.requests);
        self.thread.join().map_err(|_| anyhow!("the committing thread panicked"))?
    }
}
