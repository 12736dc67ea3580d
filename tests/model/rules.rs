//! The rules that the protocol rests on, each of which a test takes out.

/// All `true`: the protocol as it is meant.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own, on or off")]
pub struct Rules {
    // Redis's side.
    /// What an earlier connection of a node still sends is refused.
    pub token_fence: bool,
    /// An `enter` of an earlier connection is refused as well.
    pub enter_fenced: bool,
    /// No two leases of a node have the same name, whichever answers were lost.
    pub leases_named_once: bool,
    /// After a restart nobody is seated until all who may hold seats were heard of, or their leases have ended.
    pub recovery: bool,
    /// A lease that was struck out cannot be renewed.
    pub reaped_stays_reaped: bool,
    /// Nobody is seated while a recovery is under way.
    pub joins_wait: bool,
    /// A recovery ends early only if somebody could say who is waited for.
    pub known: bool,
    /// Only who could seat peers can say so: stored nodes may be older than what peers were told.
    pub known_from_views: bool,
    /// Who asserts names the nodes that are to be waited for.
    pub views: bool,
    /// Leases go on when this server was out of everybody's reach.
    pub forbearance: bool,

    // The node's side.
    /// A node seats nobody until a recovery is over (Redis sees to that as well: `joins_wait`).
    pub settled: bool,
    /// A node seats nobody until every other has seen it.
    pub established: bool,
    /// A node gives up the seats it cannot prove, before Redis does.
    pub lapse: bool,
    /// While its seats are not asserted, their deadline is that of the earlier epoch.
    pub proof: bool,
    /// Once its seats are asserted, it comes back as one that holds them, not to assert them again.
    pub holds_when_asserted: bool,
    /// What a node knew with a lease that it lost does not count later.
    pub view_of_this_lease: bool,
    /// The version that a node has seen is that of its lease.
    pub seen_of_this_lease: bool,
    /// A join whose answer was lost is taken back.
    pub takes_back: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        token_fence: true,
        enter_fenced: true,
        leases_named_once: true,
        recovery: true,
        reaped_stays_reaped: true,
        joins_wait: true,
        known: true,
        known_from_views: true,
        views: true,
        forbearance: true,
        settled: true,
        established: true,
        lapse: true,
        proof: true,
        holds_when_asserted: true,
        view_of_this_lease: true,
        seen_of_this_lease: true,
        takes_back: true,
    };
}
