//! Seated sockets that say nothing.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;

use super::plan::Phase;
use super::{Clock, Ground};

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let leaving = Arc::new(AtomicBool::new(false));
    let standing: Arc<Vec<AtomicBool>> = Arc::new((0..phase.rooms).map(|_| AtomicBool::new(false)).collect());
    let at = |room: u64| usize::try_from(room).unwrap_or(usize::MAX);
    let mut listeners = JoinSet::new();
    let mut pairs = pin!(ground.seat_pairs(phase.rooms).flat_map(stream::iter));
    while let Some(mut seated) = pairs.next().await {
        standing[at(seated.room)].store(true, Ordering::Relaxed);
        ground.record.book().done += 1;
        let (record, leaving, standing) = (ground.record.clone(), Arc::clone(&leaving), Arc::clone(&standing));
        listeners.spawn(async move {
            // Counted for as long as it is there.
            let _open = seated.open;
            let ended = seated.client.listen(|_, _| {}).await;
            if !leaving.load(Ordering::Relaxed) {
                standing[at(seated.room)].store(false, Ordering::Relaxed);
                let mut book = record.book();
                book.done -= 1;
                book.error(&ended.code());
            }
        });
    }
    ground.record.start();
    // Of no second in particular.
    ground.record.book().due += phase.rooms * 2;
    clock.begin();
    let end = Instant::now() + phase.duration();
    tokio::select! {
        _ = ground.wait_until(end) => {}
        () = ground.intrude(phase.intruders, phase.rooms, |room| standing[at(room)].load(Ordering::Relaxed)) => {}
    }
    clock.end().await;
    leaving.store(true, Ordering::Relaxed);
}
