//! The seats at Redis, as a model that is searched through: every order of a few steps and a few faults.
//!
//! `redis` is `src/cluster/lua`, `world` the nodes and what befalls them, `rules` what both rest on. Time is in ticks: a
//! lease lasts three, and a node gives up what it cannot prove two after it sent its last renewal. What holds:
//!
//! - two at most: no third peer of a room has reason to think that it is seated. A seat counts from when its node told
//!   the peer so until the node took that back; while a node is frozen, until its lease ends at Redis.
//! - seats are kept: what counts stands at Redis whenever Redis seats peers.
//! - seats are meant: what stands at Redis is the seat of a peer, once its node has done what it owes.
//! - the room becomes free: when all nodes are gone, one that comes later can seat two, and nothing is left to sweep.
//!
//! A model without one of the rules has to fail: else it would show nothing.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "test code")]

mod redis;
mod rules;
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::{
    rules::Rules,
    world::{Fault, Limits, Seats},
};

/// Two peers of the first node, one of the second: as far as they go, the same as any other two and one.
const TWO_NODES: Limits = Limits {
    homes: [0, 0, 1],
    there: 2,
    connections: 2,
    joins: 3,
    leaves: 0,
    slow: 0,
    faults: 1,
    kinds: &[],
    proxied: false,
};
const THREE_NODES: Limits = Limits { homes: [0, 1, 2], ..TWO_NODES };

const ALL_FAULTS: &[Fault] =
    &[Fault::Cut, Fault::Freeze, Fault::Kill, Fault::Quit, Fault::Restart, Fault::Wipe, Fault::Stall];

fn holds(limits: Limits) {
    let started = Instant::now();
    let checker = Seats { rules: Rules::ALL, limits }.checker().spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    eprintln!("{states} states, {steps} steps, {} deep, {:?}", checker.max_depth(), started.elapsed());
    checker.assert_properties();
}

fn fails(property: &'static str, rules: Rules, limits: Limits) {
    let checker = Seats { rules, limits }.checker().finish_when(HasDiscoveries::AllOf([property].into()));
    checker.spawn_bfs().join().assert_any_discovery(property);
}

fn seats_a_third(rules: Rules, limits: Limits) {
    fails("two at most", rules, limits);
}

#[test]
fn one_fault_of_any_kind_and_a_slow_connection() {
    holds(Limits { slow: 1, kinds: ALL_FAULTS, ..TWO_NODES });
}

#[test]
fn a_node_comes_later() {
    holds(Limits { there: 1, slow: 1, kinds: &[Fault::Cut, Fault::Freeze, Fault::Wipe], ..TWO_NODES });
}

#[test]
fn connections_break_twice() {
    holds(Limits { connections: 3, slow: 1, faults: 2, kinds: &[Fault::Cut], ..TWO_NODES });
}

#[test]
fn redis_restarts_twice() {
    let kinds = &[Fault::Wipe, Fault::Restart, Fault::Cut];
    holds(Limits { connections: 3, faults: 2, kinds, ..TWO_NODES });
    holds(Limits { there: 1, connections: 3, faults: 2, kinds, ..TWO_NODES });
}

#[test]
fn peers_leave() {
    holds(Limits { leaves: 1, slow: 1, kinds: &[Fault::Cut, Fault::Wipe], ..TWO_NODES });
}

#[test]
fn three_nodes() {
    holds(Limits { kinds: &[Fault::Wipe, Fault::Cut, Fault::Freeze], ..THREE_NODES });
    holds(Limits { there: 3, kinds: &[Fault::Wipe, Fault::Cut], ..THREE_NODES });
}

#[test]
fn three_nodes_that_begin_at_once() {
    holds(Limits { there: 0, connections: 1, slow: 1, faults: 0, ..THREE_NODES });
}

#[test]
#[ignore = "minutes, for when the protocol changes"]
fn more_faults_of_any_kind() {
    holds(Limits { kinds: ALL_FAULTS, ..THREE_NODES });
    holds(Limits { there: 1, slow: 1, leaves: 1, kinds: ALL_FAULTS, ..TWO_NODES });
    holds(Limits { connections: 3, faults: 2, kinds: ALL_FAULTS, ..TWO_NODES });
    holds(Limits { there: 1, connections: 3, faults: 2, kinds: ALL_FAULTS, ..TWO_NODES });
}

// Without one of the rules.

#[test]
fn without_the_token_fence_a_late_join_seats_a_ghost() {
    let rules = Rules { token_fence: false, ..Rules::ALL };
    fails("seats are meant", rules, Limits { slow: 1, kinds: &[Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_taking_back_a_lost_join_seats_a_ghost() {
    let rules = Rules { takes_back: false, ..Rules::ALL };
    fails("seats are meant", rules, Limits { slow: 1, kinds: &[Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_a_fence_for_enter_a_third_is_seated() {
    let rules = Rules { enter_fenced: false, ..Rules::ALL };
    seats_a_third(rules, Limits { connections: 3, slow: 1, kinds: &[Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_names_of_their_own_for_leases_a_third_is_seated() {
    let rules = Rules { leases_named_once: false, ..Rules::ALL };
    seats_a_third(rules, Limits { connections: 3, slow: 1, kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_a_recovery_a_third_is_seated() {
    let rules = Rules { recovery: false, ..Rules::ALL };
    seats_a_third(rules, Limits { kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_an_end_for_leases_a_third_is_seated() {
    let rules = Rules { reaped_stays_reaped: false, ..Rules::ALL };
    seats_a_third(rules, Limits { slow: 1, kinds: &[Fault::Freeze], ..TWO_NODES });
}

/// That the node waits suffices; Redis does not rely on it.
#[test]
fn without_waiting_for_the_recovery_a_third_is_seated() {
    let limits = Limits { kinds: &[Fault::Wipe], ..TWO_NODES };
    seats_a_third(Rules { joins_wait: false, settled: false, ..Rules::ALL }, limits);
}

#[test]
fn without_knowing_who_is_waited_for_a_third_is_seated() {
    let rules = Rules { known: false, ..Rules::ALL };
    seats_a_third(rules, Limits { kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_doubting_what_was_stored_a_third_is_seated() {
    let rules = Rules { known_from_views: false, ..Rules::ALL };
    let restarts = Limits { there: 1, faults: 2, kinds: &[Fault::Wipe, Fault::Restart], ..TWO_NODES };
    seats_a_third(rules.clone(), restarts);
    seats_a_third(rules, Limits { faults: 2, kinds: &[Fault::Stall, Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_views_a_third_is_seated() {
    let rules = Rules { views: false, ..Rules::ALL };
    seats_a_third(rules, Limits { kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_being_established_a_third_is_seated() {
    let rules = Rules { established: false, ..Rules::ALL };
    seats_a_third(rules, Limits { there: 1, kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_a_deadline_of_the_node_a_third_is_seated() {
    let rules = Rules { lapse: false, ..Rules::ALL };
    seats_a_third(rules, Limits { kinds: &[Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_proof_of_its_seats_a_third_is_seated() {
    let rules = Rules { proof: false, ..Rules::ALL };
    seats_a_third(rules, Limits { slow: 1, kinds: &[Fault::Wipe], ..TWO_NODES });
}

#[test]
fn without_holding_what_was_asserted_a_third_is_seated() {
    let rules = Rules { holds_when_asserted: false, ..Rules::ALL };
    seats_a_third(rules, Limits { connections: 3, faults: 2, kinds: &[Fault::Wipe, Fault::Cut], ..TWO_NODES });
}

#[test]
fn without_forgetting_the_view_of_a_lost_lease_a_third_is_seated() {
    let rules = Rules { view_of_this_lease: false, ..Rules::ALL };
    let kinds = &[Fault::Cut, Fault::Wipe];
    seats_a_third(rules, Limits { there: 1, faults: 2, kinds, ..TWO_NODES });
}

#[test]
fn without_forgetting_the_version_of_another_epoch_a_third_is_seated() {
    let rules = Rules { seen_of_this_lease: false, ..Rules::ALL };
    seats_a_third(rules, Limits { there: 1, connections: 3, faults: 2, kinds: &[Fault::Wipe], ..TWO_NODES });
}

/// Why nodes talk to Redis itself: what is under way ends with the server process that it was sent to.
#[test]
fn with_a_proxy_before_redis_seats_are_lost() {
    let kinds = &[Fault::Cut, Fault::Restart];
    let limits = Limits { there: 1, connections: 3, slow: 1, faults: 2, kinds, proxied: true, ..TWO_NODES };
    fails("seats are kept", Rules::ALL, limits);
}
