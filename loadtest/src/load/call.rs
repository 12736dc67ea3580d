//! Whole call set-ups, as many a second as asked for: both connect and join, offer, answer, candidates both ways, bye.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::{Client, Failure};
use super::plan::Phase;
use super::record::Kind;
use super::{Clock, Ground};
use crate::packet;
use crate::peer::Seat;

pub(super) async fn run(ground: &Ground, phase: &Phase, clock: &Clock) {
    let at_once =
        Arc::new(Semaphore::new(usize::try_from(phase.rooms).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)));
    let mut calls = JoinSet::new();
    let act = |n, due| {
        let Ok(permit) = Arc::clone(&at_once).try_acquire_owned() else {
            ground.record.book().error("too_many_calls");
            return;
        };
        let (ground, candidates) = (ground.clone(), phase.candidates);
        calls.spawn(async move {
            let _permit = permit;
            // What failed while connecting is noted already.
            if let Err(Some(failure)) = call(&ground, n, candidates, due).await {
                ground.record.error(&failure);
            }
        });
        while calls.try_join_next().is_some() {}
    };
    ground.each_due(phase, clock, act).await;
    // Each step of each has its own patience.
    while calls.join_next().await.is_some() {}
    clock.end().await;
}

/// One call. `Err(None)`: the failure is noted already.
async fn call(ground: &Ground, n: u64, candidates: u64, due: Instant) -> Result<(), Option<Failure>> {
    let room = ground.room(n);
    let (mut first, _first) = ground.connect(n, 0).await.map_err(|_| None)?;
    join(ground, &mut first, &room, Seat::Created).await?;
    let (mut second, _second) = ground.connect(n, 1).await.map_err(|_| None)?;
    join(ground, &mut second, &room, Seat::Joined).await?;
    wait_for(&mut first, "ready").await?;

    let description = |kind: &str| {
        format!(
            r"v=0\r\no=- {n} 2 IN IP4 127.0.0.1\r\ns={kind}\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n{}",
            "a=candidate-filler:0123456789\\r\\n".repeat(60)
        )
    };
    let (of_first, of_second) = (first.outgoing(), second.outgoing());
    for (kind, from, to) in [("offer", of_first, &mut second), ("answer", of_second, &mut first)] {
        let sdp = description(kind);
        let text = format!(r#"42["{kind}",{{"type":"{kind}","sdp":"{sdp}","room":{}}}]"#, serde_json::json!(room));
        sent(ground, text.len());
        from.text(text.as_bytes()).map_err(|_| Failure::Closed)?;
        let expected = format!(r#"["{kind}","{sdp}"]"#);
        let arrived = to
            .wait(|name, arguments| {
                (name == kind)
                    .then(|| Ok(arguments == expected))
                    .or_else(|| (name == "rejected").then(|| Err(refused(arguments))))
            })
            .await?;
        arrived_at(ground, arrived);
    }
    let candidate = |side: usize, k: u64| {
        format!(
            r#"{{"type":"candidate","label":{side},"id":"{k}","candidate":"candidate:{k} 1 udp 2122260223 192.0.2.1 {} typ host generation 0 ufrag 4ZcD","room":{}}}"#,
            50_000 + n % 10_000,
            serde_json::json!(room)
        )
    };
    for k in 0..candidates {
        for (side, from) in [&first, &second].into_iter().enumerate() {
            let text = format!(r#"42["candidate",{}]"#, candidate(side, k));
            sent(ground, text.len());
            from.say(&text)?;
        }
    }
    for (side, to) in [(1, &mut first), (0, &mut second)] {
        for k in 0..candidates {
            let expected = format!(r#"["candidate",{}]"#, candidate(side, k));
            let arrived = to
                .wait(|name, arguments| {
                    (name == "candidate")
                        .then(|| Ok(arguments == expected))
                        .or_else(|| (name == "rejected").then(|| Err(refused(arguments))))
                })
                .await?;
            arrived_at(ground, arrived);
        }
    }
    ground.record.done(Kind::Setup, due.elapsed());
    first.say(&packet::emit("bye", None, &room))?;
    wait_for(&mut second, "bye").await?;
    Ok(())
}

async fn join(ground: &Ground, client: &mut Client, room: &str, expected: Seat) -> Result<(), Failure> {
    let asked = Instant::now();
    let seat = client.join(room).await?;
    ground.record.took(Kind::Join, asked.elapsed());
    if seat == expected { Ok(()) } else { Err(Failure::Refused(format!("{seat:?}").to_lowercase())) }
}

async fn wait_for(client: &mut Client, event: &str) -> Result<(), Failure> {
    client.wait(|name, _| (name == event).then_some(Ok(()))).await
}

fn refused(arguments: &str) -> Failure {
    Failure::Refused(super::client::code_of(arguments))
}

fn sent(ground: &Ground, bytes: usize) {
    let mut book = ground.record.book();
    book.messages.sent += 1;
    book.messages.bytes += bytes as u64;
}

/// A message arrived: as the one that was next, or as another.
fn arrived_at(ground: &Ground, as_expected: bool) {
    let mut book = ground.record.book();
    book.messages.delivered += 1;
    book.messages.altered += u64::from(!as_expected);
}
