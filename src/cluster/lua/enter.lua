-- A node comes, or comes back over a new connection (after common.lua and regime.lua).
--
-- ARGV: 1 node, 2 its lease (0: none), 3 token: a number of this request alone, higher than those of all before,
--   4 ms a lease lasts, 5 the epoch it holds that lease in (empty: none), 6… the nodes it knew of when it could last
--   seat peers.
-- Returns {status, epoch, lease}, status one of
--   late    a later request of the node was here before
--   held    the lease still stands; operations of its earlier connections are refused from here on
--   assert  a new epoch: a new lease, and its seats are to be asserted
--   fresh   a new lease that holds nothing: an earlier one, if there was one, has ended
-- Invariants: what an earlier connection of the node still sends takes effect before this or not at all. A new lease is
-- called by the token that it began with, so no two are called the same.
local node, lease, token, ttl, held_in = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = milliseconds()
local epoch, ends = regime(ttl, now)
local entry = entry_of(node)
if entry and tonumber(entry.token) > tonumber(token) then return { 'late', epoch, entry.lease } end

if entry and held_in == epoch and entry.lease == lease and holds(node, entry.lease, now) then
  entry.token = token
  set_entry(node, entry)
  redis.call('ZADD', LEASES, now + ttl, node)
  return { 'held', epoch, entry.lease }
end

local status = 'fresh'
if held_in ~= '' and held_in ~= epoch and ends > 0 then
  status = 'assert'
  -- What it asserts is all that it holds: nothing of what was stored of it is kept.
  redis.call('HDEL', ENDED, node .. ':' .. lease)
  for i = 6, #ARGV do
    local other = entry_of(ARGV[i])
    if not other or other.asserted == '0' then redis.call('SADD', WAITING, ARGV[i]) end
    redis.call('HSET', STATE, 'known', 1)
  end
  redis.call('SADD', WAITING, node)
end
if entry then bury(node, entry.lease, end_of(node)) end
if status == 'fresh' then redis.call('SREM', WAITING, node) end
local asserted = '1'
if status == 'assert' then asserted = '0' end
-- Who asserts was known to all before; a fresh node seats nobody until every other has seen it (renew.lua).
local added = redis.call('HINCRBY', STATE, 'version', 1)
if status == 'assert' then added = 0 end
set_entry(node, { lease = token, token = token, asserted = asserted, added = added, seen = 0 })
redis.call('ZADD', LEASES, now + ttl, node)
return { status, epoch, token }
