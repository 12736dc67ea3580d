//! Seated sockets whose connections all break at once, and who all come back and want their seats again.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;

use super::plan::Phase;
use super::record::Kind;
use super::{Clock, Ground};
use crate::peer::Seat;

/// Until a peer asks again for a seat that the server still believes to be taken.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let mut listeners = JoinSet::new();
    let mut rooms = Vec::new();
    let mut pairs = pin!(ground.seat_pairs(phase.rooms));
    while let Some(pair) = pairs.next().await {
        rooms.push(pair[0].room);
        for mut seated in pair {
            listeners.spawn(async move {
                // Counted for as long as it is there.
                let _open = seated.open;
                seated.client.listen(|_, _| {}).await
            });
        }
    }
    ground.record.start();
    ground.record.book().is_due(phase.rooms * 2);
    clock.begin();
    listeners.shutdown().await;
    let broken = Instant::now();
    let deadline = broken + phase.duration();
    let back = stream::iter(rooms.into_iter().flat_map(|room| [(room, 0), (room, 1)]))
        .map(|(room, side)| async move {
            loop {
                if ground.is_stopped() || Instant::now() > deadline {
                    ground.record.book().error("not_back_in_time");
                    return None;
                }
                let Ok((mut client, open)) = ground.connect(room, side).await else {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                };
                let asked = Instant::now();
                loop {
                    match client.join(&ground.room(room)).await {
                        Ok(Seat::Full) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
                        Ok(Seat::Full) => break,
                        Ok(_) => {
                            ground.record.took(Kind::Join, asked.elapsed());
                            ground.record.done(Kind::Setup, broken.elapsed());
                            return Some((client, open));
                        }
                        Err(failure) => {
                            ground.record.error(&failure);
                            break;
                        }
                    }
                }
            }
        })
        .buffer_unordered(ground.in_flight)
        .filter_map(std::future::ready);
    let mut back = pin!(back);
    while let Some((mut client, open)) = back.next().await {
        listeners.spawn(async move {
            let _open = open;
            client.listen(|_, _| {}).await
        });
    }
    clock.end().await;
}
