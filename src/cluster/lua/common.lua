-- Stands in front of every operation.
--
-- A partition is all keys that share one hash tag: on Redis Cluster they live in one slot, on one primary.
--   KEYS[1] state    hash: run (the server process, and its replication
--                    id, that this epoch was opened in), epoch, version (of the table of nodes),
--                    ends (ms: when the recovery ends at the latest; 0: settled), known (1: a node that asserts has said
--                    who is waited for), tick (ms: the last time any node was heard of),
--                    joins (the order of the last seat)
--   KEYS[2] nodes    hash: node -> "lease token asserted added seen"
--   KEYS[3] leases   sorted set: node -> ms at which its lease ends
--   KEYS[4] waiting  set: nodes of an earlier epoch that have not asserted their seats yet
--   KEYS[5] dead     list: "node lease", leases that ended and whose seats are still to be swept
-- Beside them:
--   <tag>room:<name>          hash with the fields 1 and 2, each a seat "peer generation node lease role key order". Who knows
--                             what key (-: none) is a hash of can take the seat back; order is that of the last who took it.
--   <tag>seats:<node>:<lease> set: the rooms in which that lease holds seats
--   <tag>ended                hash: "node:lease" -> ms at which it ended, until it is swept
--   <tag>kept                 sorted set: rooms with seats of leases that were swept -> ms at which one is free. Such a seat
--                             has "@" and the ms at which its lease ended in the place of that lease.
--   <tag>mail:<field>:<room>  list: what the holder of that seat said to a peer that is away, or not there yet, each entry "to ms
--                             bytes seat said message": the key of the seat that it is for (-: of whoever comes), when it came,
--                             the bytes of all up to here, its number, and what it says
--
-- Invariants: a room has no third field. A seat counts as taken as long as nodes[node] names its lease and that lease
-- has not ended, and one that can be taken back for a while longer (`keep`); a lease that ended is struck out by whoever
-- meets it, and never comes back. Time is this server's.
local STATE, NODES, LEASES, WAITING, DEAD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TAG = string.sub(STATE, 1, -6)
local ENDED, KEPT = TAG .. 'ended', TAG .. 'kept'

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The entry of a node as {lease, token, asserted, added, seen}.
local function entry_of(node)
  local entry = redis.call('HGET', NODES, node)
  if not entry then return nil end
  local lease, token, asserted, added, seen = string.match(entry, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  return { lease = lease, token = token, asserted = asserted, added = tonumber(added), seen = tonumber(seen) }
end

local function set_entry(node, e)
  redis.call('HSET', NODES, node, table.concat({ e.lease, e.token, e.asserted, e.added, e.seen }, ' '))
end

-- A lease ended at that time: its seats are to be swept.
local function bury(node, lease, ended)
  redis.call('RPUSH', DEAD, node .. ' ' .. lease)
  redis.call('HSET', ENDED, node .. ':' .. lease, string.format('%.0f', ended))
end

-- When the lease of a node ended that is not to count any more.
local function end_of(node)
  return math.min(tonumber(redis.call('ZSCORE', LEASES, node) or 0), milliseconds())
end

-- The lease of a node has ended: from here on none of its seats counts but those that are kept.
local function reap(node, ended)
  local entry = entry_of(node)
  if entry then bury(node, entry.lease, ended or end_of(node)) end
  redis.call('HDEL', NODES, node)
  redis.call('ZREM', LEASES, node)
  redis.call('SREM', WAITING, node)
  redis.call('HINCRBY', STATE, 'version', 1)
end

-- Whether that lease holds seats at this time. One that ended is struck out.
local function holds(node, lease, now)
  local entry = entry_of(node)
  if not entry or entry.lease ~= lease then return false end
  if tonumber(redis.call('ZSCORE', LEASES, node) or 0) > now then return true end
  reap(node)
  return false
end

local function parse_seat(text)
  local peer, generation, node, lease, role, key, order =
    string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*) ?(%S*)$')
  -- Nodes of an earlier version write no more than five words.
  if key == '' then key = '-' end
  return {
    peer = peer, generation = generation, node = node, lease = lease, role = role, key = key, order = tonumber(order) or 0
  }
end

local function seat_text(s)
  return table.concat({ s.peer, s.generation, s.node, s.lease, s.role, s.key, string.format('%.0f', s.order) }, ' ')
end

-- How many ms longer a seat is kept whose lease has ended: `keep` ms from that end, if it can be taken back.
local function kept_for(seat, keep, now)
  if seat.key == '-' then return 0 end
  local ended = string.match(seat.lease, '^@(%d+)$') or redis.call('HGET', ENDED, seat.node .. ':' .. seat.lease)
  -- Of a lease that is not known to have ended, nor to stand, nothing is known.
  if not ended then return 0 end
  return tonumber(ended) + keep - now
end

-- Where that is kept which the seat in a field of a room said.
local function mail_of(prefix, room, field)
  return prefix .. 'mail:' .. field .. ':' .. room
end

local function parse_mail(text)
  local to, ms, bytes, seat, said, at = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (%d+) ()')
  return { to = to, ms = tonumber(ms), bytes = tonumber(bytes), seat = seat, said = said, body = string.sub(text, at) }
end
