//! Rooms made and left, as many a second as asked for, by sockets that stay connected.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::client::{Client, Failure, PATIENCE};
use super::plan::Phase;
use super::record::{Kind, Open};
use super::{Clock, Ground};
use crate::packet;
use crate::peer::Seat;

/// Until a pair whose connections broke connects again.
const AGAIN: Duration = Duration::from_millis(200);

type Pair = [(Client, Open); 2];

/// A room to use, and when that was due.
type Job = (String, Instant);

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let (idle, mut idlers) = mpsc::unbounded_channel::<oneshot::Sender<Job>>();
    let mut pairs = JoinSet::new();
    let mut connected =
        pin!(stream::iter(0..phase.rooms).map(|room| connect(ground, room)).buffer_unordered(ground.in_flight));
    while let Some((room, pair)) = connected.next().await {
        pairs.spawn(serve(ground.clone(), room, pair, idle.clone()));
    }
    let act = |n, due| {
        let mut job = (ground.room(n), due);
        loop {
            let Ok(idler) = idlers.try_recv() else {
                ground.record.book().error("all_rooms_in_use");
                break;
            };
            match idler.send(job) {
                Ok(()) => break,
                // Its connection has broken meanwhile.
                Err(back) => job = back,
            }
        }
    };
    ground.each_due(phase, clock, act).await;
    // Nobody gets another job: what is under way is finished.
    drop(idlers);
    drop(idle);
    let all_done = async { while pairs.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(PATIENCE, all_done).await;
    clock.end().await;
}

async fn connect(ground: &Ground, room: u64) -> (u64, Option<Pair>) {
    let first = ground.connect(room, 0).await;
    let second = ground.connect(room, 1).await;
    (room, first.ok().zip(second.ok()).map(|(first, second)| [first, second]))
}

/// Uses one room after the other with a pair of sockets, until there is nothing more to do.
async fn serve(ground: Ground, place: u64, mut pair: Option<Pair>, idle: mpsc::UnboundedSender<oneshot::Sender<Job>>) {
    loop {
        let Some([(first, _), (second, _)]) = &mut pair else {
            if ground.is_stopped() || idle.is_closed() {
                return;
            }
            tokio::time::sleep(AGAIN).await;
            pair = connect(&ground, place).await.1;
            continue;
        };
        let (job, next) = oneshot::channel();
        if idle.send(job).is_err() {
            return;
        }
        // Heartbeats are answered meanwhile.
        let job = tokio::select! {
            job = next => job.map_err(|_| None),
            failure = first.listen(|_, _| {}) => Err(Some(failure)),
            failure = second.listen(|_, _| {}) => Err(Some(failure)),
        };
        let used = match job {
            Ok((room, due)) => use_room(&ground, first, second, &room, due).await,
            Err(None) => return,
            Err(Some(failure)) => Err(failure),
        };
        if let Err(failure) = used {
            ground.record.error(&failure);
            pair = None;
        }
    }
}

/// Both join, both leave.
async fn use_room(
    ground: &Ground,
    first: &mut Client,
    second: &mut Client,
    room: &str,
    due: Instant,
) -> Result<(), Failure> {
    let mut asked = due;
    for (client, expected) in [(&mut *first, Seat::Created), (&mut *second, Seat::Joined)] {
        let seat = client.join(room).await?;
        ground.record.took(Kind::Join, asked.elapsed());
        if seat != expected {
            return Err(Failure::Refused(format!("{seat:?}").to_lowercase()));
        }
        asked = Instant::now();
    }
    for client in [&mut *first, &mut *second] {
        client.wait(|name, _| (name == "ready").then_some(Ok(()))).await?;
    }
    ground.record.book().done(due.elapsed());
    second.say(&packet::emit("bye", None, room))?;
    first.wait(|name, _| (name == "bye").then_some(Ok(()))).await?;
    first.say(&packet::emit("bye", None, room))
}
