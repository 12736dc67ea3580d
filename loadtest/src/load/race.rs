//! Many sockets ask for the same room at once: exactly two may get in.

use std::time::Instant;

use tokio::task::JoinSet;

use super::plan::Phase;
use super::record::Kind;
use super::{Clock, Ground};
use crate::peer::Seat;

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let mut races = JoinSet::new();
    let act = |n, _| {
        races.spawn(race(ground.clone(), n, phase.contenders));
        while races.try_join_next().is_some() {}
    };
    ground.each_due(phase, clock, act).await;
    while races.join_next().await.is_some() {}
    clock.end().await;
}

async fn race(ground: Ground, n: u64, contenders: u64) {
    let mut connecting = JoinSet::new();
    for contender in 0..contenders {
        let ground = ground.clone();
        connecting.spawn(async move { ground.connect(n, usize::from(contender % 2 == 1)).await });
    }
    let mut clients = Vec::new();
    while let Some(connected) = connecting.join_next().await {
        // What failed is noted.
        if let Ok(Ok(client)) = connected {
            clients.push(client);
        }
    }
    let complete = clients.len() as u64 == contenders;
    let asked = Instant::now();
    let mut joining = JoinSet::new();
    for (mut client, open) in clients {
        let room = ground.room(n);
        joining.spawn(async move {
            let seat = client.join(&room).await;
            (seat, asked.elapsed(), client, open)
        });
    }
    let (mut seats, mut refused, mut kept) = ((0_u64, 0_u64, 0_u64), false, Vec::new());
    while let Some(joined) = joining.join_next().await {
        let Ok((seat, took, client, open)) = joined else { continue };
        match seat {
            Ok(seat) => {
                ground.record.took(Kind::Join, took);
                match seat {
                    Seat::Created => seats.0 += 1,
                    Seat::Joined => seats.1 += 1,
                    Seat::Full => seats.2 += 1,
                }
            }
            Err(failure) => {
                refused = true;
                ground.record.error(&failure);
            }
        }
        // Nobody leaves before all have their answer.
        kept.push((client, open));
    }
    let mut book = ground.record.book();
    book.cap.tried += seats.2;
    if seats.0 + seats.1 > 2 || seats.0 > 1 || seats.1 > 1 {
        book.cap.exceeded += 1;
    }
    if complete && !refused {
        if seats.0 == 1 && seats.1 == 1 {
            book.done(asked.elapsed());
        } else {
            book.error("room_not_filled");
        }
    }
}
